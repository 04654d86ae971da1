"""What goes into each asset: allow-lists, taken from the repository root. Nothing is copied, bundled or built."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from aws_cdk import IgnoreMode
from aws_cdk.aws_ecr_assets import DockerImageAsset, Platform
from aws_cdk.aws_lambda import Code
from constructs import Construct

ROOT = Path(__file__).resolve().parent.parent
LAMBDA_FOLDERS = ("contracts", "lambdas", "dreamdrop/web")
TRAINING_FOLDERS = ("contracts", "diffusion", "training_container")
INFERENCE_FOLDERS = ("contracts", "diffusion", "inference_container")
# SageMaker takes no OCI manifests, which newer versions of docker push unless they are told:
# https://github.com/aws/amazon-sagemaker-feedback/issues/180
DOCKER_MANIFEST = "type=docker,oci-mediatypes=false"


def only(folders: tuple[str, ...]) -> list[str]:
    """The .gitignore lines that leave nothing but these folders, given by their paths from the root."""
    lines = ["*"]
    for folder in folders:
        for parent in reversed(PurePosixPath(folder).parents[:-1]):
            lines += [f"!/{parent}", f"/{parent}/*"]
        lines += [f"!/{folder}", f"!/{folder}/**"]
    return [*lines, "__pycache__", "*.pyc"]


def lambda_code() -> Code:
    """One asset for every function, so that the import path is the same here and in AWS."""
    return Code.from_asset(str(ROOT), exclude=only(LAMBDA_FOLDERS), ignore_mode=IgnoreMode.GIT)


def training_image(scope: Construct, id: str) -> DockerImageAsset:
    return _image(scope, id, TRAINING_FOLDERS)


def inference_image(scope: Construct, id: str) -> DockerImageAsset:
    return _image(scope, id, INFERENCE_FOLDERS)


def _image(scope: Construct, id: str, folders: tuple[str, ...]) -> DockerImageAsset:
    """The last folder is the container's own; its Dockerfile is built from the repository root."""
    return DockerImageAsset(
        scope,
        id,
        directory=str(ROOT),
        file=f"{folders[-1]}/Dockerfile",
        platform=Platform.LINUX_AMD64,
        outputs=[DOCKER_MANIFEST],
        exclude=only(folders),
        ignore_mode=IgnoreMode.GIT,
    )
