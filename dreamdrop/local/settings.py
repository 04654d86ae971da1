"""What the local cloud is told at its start, and how MiniStack is told the same."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from dreamdrop.deployment import LOCAL_SECRET
from dreamdrop.local.errors import LocalCloudError

MINISTACK = "1.5.33"  # the plug-ins use private names, which may move at any release
DEFAULT_PORT = 4700
LOCAL_ACCOUNT = "000000000000"
HOST = "127.0.0.1"

# Credentials and endpoints of the developer must reach neither the emulator nor its children.
_DEVELOPERS_OWN = ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CONFIG_FILE", "AWS_CA_BUNDLE")


@dataclass(frozen=True)
class CloudSettings:
    cdk_out: Path
    state: Path
    port: int = DEFAULT_PORT
    region: str = "us-east-1"
    account: str = LOCAL_ACCOUNT
    deploy: bool = True
    parent_pid: int | None = None
    decisions: Path | None = None
    """Where every IAM decision is written, with AUTH=true."""
    faults: bool = False
    """Whether calls can be made to go wrong: for tests."""
    training_slots: int = 1
    """Training jobs that run at once; this machine's GPU or cores are shared by them."""

    @property
    def endpoint_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def outputs_file(self) -> Path:
        return self.state / "outputs.json"


def check_ministack_version() -> None:
    """Raises LocalCloudError when another MiniStack than the pinned one is installed, or none."""
    try:
        installed = metadata.version("ministack")
    except metadata.PackageNotFoundError:
        raise LocalCloudError("MiniStack is not installed.", "Install it: pip install -e '.[local]'") from None
    if installed != MINISTACK:
        raise LocalCloudError(
            f"MiniStack {installed} is installed, the local cloud is built on {MINISTACK}.",
            f"Install that one: pip install ministack=={MINISTACK}",
        )


def ministack_environment(settings: CloudSettings) -> dict[str, str]:
    """MiniStack's settings. It reads them when it is imported; AUTH comes from the environment as it is."""
    return {
        "GATEWAY_PORT": str(settings.port),
        "BIND_HOST": HOST,  # the default is every interface
        "MINISTACK_ACCOUNT_ID": settings.account,
        "MINISTACK_REGION": settings.region,
        "AWS_ENDPOINT_URL": settings.endpoint_url,
        "AWS_REGION": settings.region,
        "AWS_DEFAULT_REGION": settings.region,
        # The root caller of the emulator: with AUTH=true signatures are verified with this secret.
        "AWS_ACCESS_KEY_ID": settings.account,
        "AWS_SECRET_ACCESS_KEY": LOCAL_SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        "PERSIST_STATE": "1",
        "STATE_DIR": str(settings.state / "services"),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(settings.state / "s3"),
        "IOT_MTLS_ENABLED": "0",  # would listen on port 8883
        "SFTP_ENABLED": "0",  # would listen on port 2222
        "LAMBDA_EXECUTOR": "local",
        "LOG_LEVEL": os.environ.get("LOG_LEVEL", "WARNING"),
    }


def apply_to_process(settings: CloudSettings) -> None:
    """Must run before MiniStack is imported."""
    for name in _DEVELOPERS_OWN:
        os.environ.pop(name, None)
    os.environ.update(ministack_environment(settings))
