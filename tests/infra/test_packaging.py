"""The assets hold what runs, all of it, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from infra.constructs.functions import POWERTOOLS_LAYER, POWERTOOLS_VERSION
from infra.packaging import INFERENCE_FOLDERS, LAMBDA_FOLDERS, ROOT, TRAINING_FOLDERS, only
from tests.infra.synthesis import Synthesis

# What the Python runtime of Lambda and the Powertools layer bring; anything else would be missing there.
LAMBDA_BRINGS = {
    *("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "six", "urllib3", "certifi"),
    *("aws_lambda_powertools", "aws_xray_sdk", "wrapt", "typing_extensions"),
    *("pydantic", "pydantic_core", "annotated_types", "typing_inspection"),
}
IMPORT_ALONE = """
import importlib, json, sys
from pathlib import Path

asset, *handlers = sys.argv[1:]
at_start = set(sys.modules)
sys.path.insert(0, asset)
for handler in handlers:
    module, _, function = handler.rpartition(".")
    assert callable(getattr(importlib.import_module(module), function)), handler
files = {name: module.__file__ for name, module in sys.modules.items() if getattr(module, "__file__", None)}
files = {name: file for name, file in files.items() if name not in at_start}
foreign = {name.partition(".")[0] for name, file in files.items() if "site-packages" in file}
ours = {name: file for name, file in files.items() if name.partition(".")[0] in ("contracts", "lambdas")}
strays = sorted(name for name, file in ours.items() if not Path(file).is_relative_to(asset))
sys.stdout.write(json.dumps({"foreign": sorted(foreign), "strays": strays}))
"""


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def allowed(folders: tuple[str, ...]) -> set[str]:
    found = {f"{folder}/{file}" for folder in folders for file in files_below(ROOT / folder)}
    return {file for file in found if "__pycache__" not in file and not file.endswith(".pyc")}


def test_the_function_asset_holds_exactly_the_allowed_folders(local: Synthesis) -> None:
    assert files_below(local.file_asset()) == allowed(LAMBDA_FOLDERS)


@pytest.mark.parametrize("folders", [TRAINING_FOLDERS, INFERENCE_FOLDERS])
def test_an_image_asset_holds_exactly_the_folders_that_it_needs(local: Synthesis, folders: tuple[str, ...]) -> None:
    assert files_below(local.image_asset(f"{folders[-1]}/Dockerfile")) == allowed(folders)


@pytest.mark.parametrize("folders", [TRAINING_FOLDERS, INFERENCE_FOLDERS])
def test_a_dockerfile_copies_exactly_the_folders_of_its_asset(folders: tuple[str, ...]) -> None:
    lines = (ROOT / folders[-1] / "Dockerfile").read_text().split("\nFROM ")[-1].splitlines()
    assert [line for line in lines if line.startswith("COPY")] == [
        f"COPY {name} /opt/program/{name}" for name in folders
    ]


@pytest.mark.parametrize("folders", [TRAINING_FOLDERS, INFERENCE_FOLDERS])
def test_docker_by_hand_is_given_the_same_folders(folders: tuple[str, ...]) -> None:
    lines = (ROOT / folders[-1] / "Dockerfile.dockerignore").read_text().splitlines()[1:]
    assert [line.removeprefix("**/") for line in lines] == only(folders)


def test_docker_builds_the_gpu_set(local: Synthesis) -> None:
    """Both assets leave the build arguments to the Dockerfile's defaults."""
    assets = json.loads((local.folder / "dreamdrop-service.assets.json").read_text())["dockerImages"].values()
    assert [asset["source"].get("dockerBuildArgs") for asset in assets] == [None, None]


def test_docker_pushes_a_manifest_that_sagemaker_takes(local: Synthesis) -> None:
    """It refuses OCI manifests, which docker makes by default since BuildKit 0.31."""
    assets = json.loads((local.folder / "dreamdrop-service.assets.json").read_text())["dockerImages"].values()
    assert [asset["source"]["dockerOutputs"] for asset in assets] == [["type=docker,oci-mediatypes=false"]] * 2


def test_the_asset_alone_imports_every_handler(local: Synthesis) -> None:
    imported = subprocess.run(
        [sys.executable, "-I", "-B", "-c", IMPORT_ALONE, str(local.file_asset()), *local.functions()],
        env={"AWS_DEFAULT_REGION": "us-east-1", "POWERTOOLS_TRACE_DISABLED": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert imported.returncode == 0, imported.stderr
    found = json.loads(imported.stdout)
    assert found["strays"] == []
    assert set(found["foreign"]) <= LAMBDA_BRINGS


def test_every_function_knows_what_its_sdk_may_be_too_old_for(local: Synthesis) -> None:
    for function in local.functions().values():
        folder = Path(function["Environment"]["Variables"]["AWS_DATA_PATH"]).relative_to("/var/task")
        assert list((local.file_asset() / folder).rglob("service-2.sdk-extras.json"))


def test_the_layer_is_the_powertools_that_the_tests_run_with(local: Synthesis) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["lambdas"]
    assert f"aws-lambda-powertools=={POWERTOOLS_VERSION}" in extras
    layers = [
        parameter
        for parameter in local.service["Parameters"].values()
        if parameter.get("Default") == POWERTOOLS_LAYER and parameter["Type"] == "AWS::SSM::Parameter::Value<String>"
    ]
    assert len(layers) == 1


def test_the_entry_file_gives_the_same_templates_again(local: Synthesis, tmp_path: Path) -> None:
    """In another process, without the CDK's command line, with bytecode written since: hashes of assets included."""
    context = {"CDK_CONTEXT_JSON": json.dumps({"environment": "local"}), "CDK_OUTDIR": str(tmp_path)}
    subprocess.run(
        [sys.executable, str(ROOT / "app.py")], env={**os.environ, **context, "PYTHONHASHSEED": "7"}, check=True
    )
    again = Synthesis(tmp_path)
    assert again.data == local.data
    assert again.service == local.service
