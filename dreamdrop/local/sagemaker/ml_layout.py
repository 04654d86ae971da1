"""The /opt/ml tree of a training container."""

from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from dreamdrop.local.sagemaker.errors import invalid

ML_ROOT = PurePosixPath("/opt/ml")
DEFAULT_CHECKPOINTS = "/opt/ml/checkpoints/"
FAILURE_TEXT_LIMIT = 1024
HOST = "algo-1"


class TrainingLayout:
    """Places below one base directory; nothing is created before `create`."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.model = base / "model"
        self.output_data = base / "output" / "data"
        self.log = base / "log.txt"
        self._config = base / "input" / "config"
        self._failure = base / "output" / "failure"

    def channel(self, name: str) -> Path:
        return self.base / "input" / "data" / name

    def create(self, job: dict[str, Any]) -> None:
        """`job`: the CreateTrainingJob request."""
        for directory in (self._config, self.base / "input" / "data", self.model, self.output_data):
            directory.mkdir(parents=True, exist_ok=True)
        for name, content in {
            "hyperparameters.json": job.get("HyperParameters", {}),
            "inputdataconfig.json": _input_data_config(job),
            "resourceconfig.json": _resource_config(job),
        }.items():
            (self._config / name).write_text(json.dumps(content))

    def discard(self) -> None:
        """The disk of an instance that is gone; the log has left it."""
        for entry in self.base.glob("*"):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry != self.log:
                entry.unlink(missing_ok=True)

    def failure_text(self) -> str:
        """What the program wrote as the reason of its failure; empty if nothing."""
        if not self._failure.is_file():
            return ""
        with self._failure.open(encoding="utf-8", errors="replace") as file:
            return file.read(FAILURE_TEXT_LIMIT).strip()


def directory_in_container(base: Path, path: str) -> Path:
    """An absolute directory below /opt/ml -> its place. Raises SageMakerError for any other."""
    inside = PurePosixPath(path)
    if ".." in inside.parts or not inside.is_relative_to(ML_ROOT) or inside == ML_ROOT:
        raise invalid(f"The local path {path!r} is not a directory below /opt/ml/; the local cloud has no other.")
    return base / inside.relative_to(ML_ROOT)


def _input_data_config(job: dict[str, Any]) -> dict[str, Any]:
    return {
        channel["ChannelName"]: {
            "TrainingInputMode": "File",  # FastFile, too, is reported as File
            "S3DistributionType": "FullyReplicated",
            "RecordWrapperType": "None",
            **({"ContentType": channel["ContentType"]} if "ContentType" in channel else {}),
        }
        for channel in job.get("InputDataConfig", [])
    }


def _resource_config(job: dict[str, Any]) -> dict[str, Any]:
    instance_type = job["ResourceConfig"].get("InstanceType", "local")
    group = {"instance_group_name": "homogeneousCluster", "instance_type": instance_type, "hosts": [HOST]}
    return {
        "current_host": HOST,
        "current_instance_type": instance_type,
        "current_group_name": "homogeneousCluster",
        "hosts": [HOST],
        "instance_groups": [group],
        "network_interface_name": "lo",
    }
