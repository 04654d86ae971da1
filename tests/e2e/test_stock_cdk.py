"""The stock CDK command line against the local cloud: bootstrap, deploy, deploy again, destroy."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from contracts.environment import HostEnvironment
from dreamdrop.local import process
from dreamdrop.up import free_port
from lambdas.domain.endpoints import EndpointPlan
from tests.synthesized import PROJECT, synthesized

pytestmark = pytest.mark.npm

HOST_MODEL = "lambdas.hosting.host_model.handler"


@pytest.fixture(scope="module")
def empty_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a command line whose account is a local cloud with nothing in it."""
    port = free_port(0)
    with process.start(synthesized(), tmp_path_factory.mktemp("cloud") / "state", port, deploy=False):
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
    clients = {service: boto3.client(service, **client_options(empty_account)) for service in ("lambda", "sagemaker")}
    make_endpoint(clients)
    cdk("destroy", "--all", "--force")
    sagemaker = clients["sagemaker"]
    assert sagemaker.list_endpoints()["Endpoints"] == []
    assert sagemaker.list_endpoint_configs()["EndpointConfigs"] == []
    assert sagemaker.list_models()["Models"] == []


def client_options(account: dict[str, str]) -> dict[str, str]:
    return {
        "endpoint_url": account["AWS_ENDPOINT_URL"],
        "region_name": account["AWS_REGION"],
        "aws_access_key_id": account["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": account["AWS_SECRET_ACCESS_KEY"],
    }


def make_endpoint(clients: dict[str, Any]) -> None:
    """As the state machine makes one at run time; its model does not exist, so that it fails to come up."""
    functions = clients["lambda"].list_functions()["Functions"]
    [variables] = [function["Environment"]["Variables"] for function in functions if function["Handler"] == HOST_MODEL]
    host = HostEnvironment.from_variables(variables)
    plan = EndpointPlan(
        prefix=host.resource_prefix,
        base_model="none",
        base_model_checksum="0" * 64,
        bucket=host.data_bucket,
        image=host.inference_image,
        role_arn=host.inference_role_arn,
        instance_type=host.inference_instance_type,
        success_topic_arn=host.inference_success_topic_arn,
        error_topic_arn=host.inference_error_topic_arn,
    )
    sagemaker = clients["sagemaker"]
    sagemaker.create_model(**plan.model())
    sagemaker.create_endpoint_config(**plan.config())
    sagemaker.create_endpoint(**plan.endpoint())
    assert [found["EndpointName"] for found in sagemaker.list_endpoints()["Endpoints"]] == [plan.endpoint_name]
