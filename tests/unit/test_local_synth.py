"""When the application is synthesized again for the local cloud, and with which Node.js."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from dreamdrop import up
from dreamdrop.local import synth
from dreamdrop.local.errors import LocalCloudError

APP = """
import json, os, pathlib
out = pathlib.Path(os.environ["CDK_OUTDIR"])
out.mkdir()
(out / "manifest.json").write_text(os.environ["CDK_CONTEXT_JSON"])
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    project = tmp_path / "project"
    (project / "infra").mkdir(parents=True)
    (project / "infra/stack.py").write_text("size = 1")
    (project / "app.py").write_text(APP)
    return project


def test_an_application_is_synthesized_only_when_its_sources_changed(project: Path, tmp_path: Path) -> None:
    cdk_out = tmp_path / "cdk.out"
    assert synth.synthesize(project, cdk_out) is True
    assert json.loads((cdk_out / "manifest.json").read_text()) == {"environment": "local"}
    assert synth.synthesize(project, cdk_out) is False
    (project / "infra/stack.py").write_text("size = 2")
    assert synth.synthesize(project, cdk_out) is True
    assert synth.synthesize(project, cdk_out, {"prefix": "other"}) is True
    assert json.loads((cdk_out / "manifest.json").read_text())["prefix"] == "other"


def test_byte_code_and_editors_files_do_not_count(project: Path) -> None:
    before = synth.sources_digest(project, {})
    (project / "infra/__pycache__").mkdir()
    (project / "infra/__pycache__/stack.pyc").write_bytes(b"x")
    (project / "infra/.stack.py.swp").write_bytes(b"x")
    assert synth.sources_digest(project, {}) == before


def test_a_broken_application_leaves_the_former_one_and_says_why(project: Path, tmp_path: Path) -> None:
    cdk_out = tmp_path / "cdk.out"
    synth.synthesize(project, cdk_out)
    (project / "app.py").write_text("raise ValueError('no such size')")
    with pytest.raises(LocalCloudError, match="ValueError: no such size"):
        synth.synthesize(project, cdk_out)
    assert (cdk_out / "manifest.json").is_file()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_nodejs_that_is_too_old_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = tmp_path / "node"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(synth, "_packaged_node", lambda: None)
    for version, good in (("v18.1.0", False), ("v20.2.0", True), ("v24.0.0", True)):
        node.write_text(f"#!/bin/sh\necho {version}\n")
        node.chmod(node.stat().st_mode | stat.S_IXUSR)
        if good:
            assert synth.node_folder() == tmp_path
        else:
            with pytest.raises(LocalCloudError, match=r"Node\.js 20 or later"):
                synth.node_folder()


def test_the_local_cloud_has_templates_of_its_own(project: Path, tmp_path: Path) -> None:
    """What `make synth` or `make deploy` leaves in cdk.out is for another environment."""
    assert up.CDK_OUT.parent == up.STATE
    assert synth.synthesize(project, tmp_path / "new" / "cdk.out")
