"""Image assets of a cloud assembly become commands, without docker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dreamdrop.local.images import AssetImages, ContainerCommand, ImageError

URI = "000000000000.dkr.ecr.us-east-1.amazonaws.com/assets-000000000000-us-east-1:"

DOCKERFILE = """\
ARG BASE_IMAGE=python:3.12-slim-bookworm
FROM ${BASE_IMAGE}
WORKDIR /opt/program
COPY trainer/requirements.txt ./requirements.txt
RUN pip install --no-cache-dir -r requirements.txt
COPY shared /opt/program/shared
COPY trainer /opt/program/trainer
ENV SETTINGS=/opt/program/trainer/settings.json HUB=https://example.org/a GREETING="hello there"
ENTRYPOINT ["python", "-m", "trainer"]
"""


def stage(tmp_path: Path, dockerfile: str, tag: str = "abc123") -> AssetImages:
    """A cloud assembly with one image asset, as the CDK writes it."""
    context = tmp_path / "cdk.out" / f"asset.{tag}"
    for name, text in {
        "trainer/__init__.py": "",
        "trainer/__main__.py": "import json, sys\nimport shared\nprint(json.dumps([shared.__file__, sys.argv[1:]]))\n",
        "trainer/requirements.txt": "torch\n",
        "trainer/settings.json": "{}",
        "shared/__init__.py": "",
        "trainer/Dockerfile": dockerfile,
    }.items():
        path = context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    asset = {
        "source": {"directory": f"asset.{tag}", "dockerFile": "trainer/Dockerfile"},
        "destinations": {"current": {"repositoryName": "assets", "imageTag": tag}},
    }
    manifest = tmp_path / "cdk.out" / f"{tag}.assets.json"
    manifest.write_text(json.dumps({"version": "45.0.0", "files": {}, "dockerImages": {tag: asset}}))
    return AssetImages(tmp_path / "cdk.out", tmp_path / "roots")


def run(command: ContainerCommand, *arguments: str) -> str:
    environment = {"PATH": os.environ["PATH"], **command.env}
    argv = [*command.argv, *arguments]
    return subprocess.run(argv, cwd=command.cwd, env=environment, check=True, capture_output=True, text=True).stdout


def test_a_module_runs_from_the_image_root_and_imports_only_what_was_copied(tmp_path: Path) -> None:
    command = stage(tmp_path, DOCKERFILE)(URI + "abc123")
    shared, arguments = json.loads(run(command, "train"))
    root = tmp_path / "roots" / "abc123"
    assert shared == str(root / "opt/program/shared/__init__.py")
    assert arguments == ["train"]
    assert command.argv[0] == sys.executable
    assert command.cwd == root / "opt/program"
    assert command.env["PYTHONPATH"] == str(root / "opt/program")
    assert (root / "opt/program/requirements.txt").read_text() == "torch\n"


def test_running_leaves_no_byte_code_in_the_staged_folder(tmp_path: Path) -> None:
    run(stage(tmp_path, DOCKERFILE)(URI + "abc123"))
    assert not list((tmp_path / "cdk.out").rglob("__pycache__"))


def test_paths_of_the_image_in_env_point_into_its_root_and_other_values_stay(tmp_path: Path) -> None:
    env = stage(tmp_path, DOCKERFILE)(URI + "abc123").env
    assert Path(env["SETTINGS"]).read_text() == "{}"
    assert (env["HUB"], env["GREETING"]) == ("https://example.org/a", "hello there")


def test_a_directory_is_merged_into_one_that_an_earlier_copy_made(tmp_path: Path) -> None:
    images = stage(
        tmp_path,
        "FROM x\nWORKDIR /app\nCOPY shared /app\nCOPY trainer/ ./\nCOPY trainer/*.json /app/conf/\n"
        'ENTRYPOINT ["python"]\n',
    )
    app = images(URI + "abc123").cwd
    assert (app / "__main__.py").exists()
    assert (app / "conf/settings.json").read_text() == "{}"


def test_only_the_last_stage_counts(tmp_path: Path) -> None:
    images = stage(tmp_path, 'FROM a AS one\nCOPY shared /one\nFROM b\nCOPY trainer /two\nENTRYPOINT ["/two/run.sh"]\n')
    images(URI + "abc123")
    assert sorted(p.name for p in (tmp_path / "roots/abc123").iterdir()) == ["two"]


def test_an_assembly_that_was_synthesized_again_is_read_again(tmp_path: Path) -> None:
    images = stage(tmp_path, DOCKERFILE)
    with pytest.raises(ImageError, match="not an asset of this app"):
        images(URI + "def456")
    stage(tmp_path, DOCKERFILE, tag="def456")
    assert images(URI + "def456").cwd.is_dir()


@pytest.mark.parametrize(
    ("dockerfile", "problem"),
    [
        ("FROM x\nENTRYPOINT python -m trainer\n", "not in exec form"),
        ("FROM x\nCOPY trainer /t\n", "has no ENTRYPOINT"),
        ('FROM x\nCOPY ../secrets /s\nENTRYPOINT ["python"]\n', "leaves the build folder"),
        ('FROM x\nCOPY shared /a/../../../b\nENTRYPOINT ["python"]\n', "is not plain"),
        ('FROM x\nCOPY missing /m\nENTRYPOINT ["python"]\n', "no such file in the staged build folder"),
        ('FROM x\nCOPY --from=builder /a /b\nENTRYPOINT ["python"]\n', "from another image"),
    ],
)
def test_a_dockerfile_without_a_local_meaning_is_refused_by_its_line(
    tmp_path: Path, dockerfile: str, problem: str
) -> None:
    with pytest.raises(ImageError, match=problem):
        stage(tmp_path, dockerfile)(URI + "abc123")
