"""The stock CDK command line against the local cloud: bootstrap, deploy, deploy again, destroy."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dreamdrop.local import process, synth
from dreamdrop.up import free_port
from tests.e2e.conftest import CDK_OUT, PROJECT

pytestmark = pytest.mark.npm


@pytest.fixture(scope="module")
def empty_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a command line whose account is a local cloud with nothing in it."""
    synth.synthesize(PROJECT, CDK_OUT)
    port = free_port(0)
    with process.start(CDK_OUT, tmp_path_factory.mktemp("cloud") / "state", port, deploy=False):
        yield {
            **os.environ,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "000000000000",
            "AWS_SECRET_ACCESS_KEY": "local",
        }


def test_bootstrap_deploy_again_and_destroy(empty_account: dict[str, str], tmp_path: Path) -> None:
    outputs = tmp_path / "outputs.json"

    def cdk(*arguments: str) -> str:
        command = ["npx", "cdk", *arguments, "--output", str(tmp_path / "out"), "-c", "environment=local"]
        done = subprocess.run(command, cwd=PROJECT, env=empty_account, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    cdk("bootstrap")
    cdk("deploy", "--all", "--require-approval", "never", "--outputs-file", str(outputs))
    made = json.loads(outputs.read_text())
    assert {"DataBucketName", "TableName"} <= made["dreamdrop-data"].keys()
    assert {"ApiUrl", "StateMachineArn", "SubjectTopicArn"} <= made["dreamdrop-service"].keys()
    assert "no changes" in cdk("deploy", "--all", "--require-approval", "never")
    cdk("destroy", "--all", "--force")
