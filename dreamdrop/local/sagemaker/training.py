"""CreateTrainingJob, DescribeTrainingJob, ListTrainingJobs, StopTrainingJob."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreamdrop.local.sagemaker.device_slots import DeviceSlots
from dreamdrop.local.sagemaker.errors import SageMakerError, invalid
from dreamdrop.local.sagemaker.job_run import EVENT, TERMINAL, JobRun, end_job, enter
from dreamdrop.local.sagemaker.listing import page
from dreamdrop.local.sagemaker.metrics import check_definitions
from dreamdrop.local.sagemaker.ml_layout import DEFAULT_CHECKPOINTS, directory_in_container
from dreamdrop.local.sagemaker.platform import Platform
from dreamdrop.local.sagemaker.s3 import parse_location
from dreamdrop.local.sagemaker.store import Record, RecordStore

ONE_DAY = 86_400
_SUMMARY = (
    "TrainingJobName", "TrainingJobArn", "CreationTime", "TrainingEndTime", "LastModifiedTime", "TrainingJobStatus",
    "SecondaryStatus",
)  # fmt: skip


class TrainingJobs:
    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.store = RecordStore(platform.work / "records" / "training-jobs")
        self._slots = DeviceSlots(platform.settings.device_slots)
        self._runs: dict[str, JobRun] = {}
        self._lock = threading.Lock()

    def operations(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        return {
            "CreateTrainingJob": self.create,
            "DescribeTrainingJob": self.describe,
            "ListTrainingJobs": self.list_jobs,
            "StopTrainingJob": self.stop,
        }

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        _check(body)
        name = body["TrainingJobName"]
        arn = self._platform.arn("training-job", name)
        job = self._new_record(body, arn)
        if not self.store.add(name, job):
            raise SageMakerError(
                "ResourceInUse",
                "Training job names must be unique within an AWS account and region, "
                f"and a training job with this name already exists ({arn})",
            )
        self._platform.tell(EVENT, enter(self.store, name, "Starting"), arn)
        run = JobRun(job, self._platform, self.store, self._slots)
        with self._lock:
            self._runs[name] = run
        run.thread.start()
        return {"TrainingJobArn": arn}

    def describe(self, body: dict[str, Any]) -> dict[str, Any]:
        job = self._existing(body["TrainingJobName"])
        job.pop("Tags", None)
        return job

    def list_jobs(self, body: dict[str, Any]) -> dict[str, Any]:
        jobs, more = page(self.store.all(), body, "TrainingJob", descending=False, summary=_SUMMARY)
        return {"TrainingJobSummaries": jobs, **more}

    def stop(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["TrainingJobName"]
        with self.store.transaction():
            status = self._existing(name)["TrainingJobStatus"]
            if status in TERMINAL:
                raise invalid(f"The request was rejected because the training job is in status {status}.")
            if status == "InProgress":
                enter(self.store, name, "Stopping", TrainingJobStatus="Stopping")
        with self._lock:
            run = self._runs.get(name)
        if run:
            run.stop()
        return {}

    def wait(self, name: str, seconds: float) -> None:
        """Returns when the job has ended, or after that time."""
        with self._lock:
            run = self._runs.get(name)
        if run:
            run.thread.join(seconds)

    def restore(self) -> None:
        """Jobs of an engine that was stopped cannot go on."""
        for job in self.store.all():
            if job["TrainingJobStatus"] not in TERMINAL and job["TrainingJobName"] not in self._runs:
                reason = "InternalServerError: the local cloud was stopped"
                end_job(self.store, self._platform, job["TrainingJobName"], "Failed", "Failed", reason)

    def threads(self) -> list[threading.Thread]:
        with self._lock:
            return [run.thread for run in self._runs.values()]

    def _existing(self, name: str) -> Record:
        job = self.store.get(name)
        if job is None:
            raise invalid("Requested resource not found.")
        return job

    def _new_record(self, body: dict[str, Any], arn: str) -> Record:
        output = parse_location(body["OutputDataConfig"]["S3OutputPath"]).below(body["TrainingJobName"], "output")
        plain = body["OutputDataConfig"].get("CompressionType") == "NONE"
        artifacts = output.below("model").uri + "/" if plain else output.below("model.tar.gz").uri
        now = time.time()
        return {
            "EnableNetworkIsolation": False,
            "EnableInterContainerTrafficEncryption": False,
            "EnableManagedSpotTraining": False,
            **body,
            "StoppingCondition": {"MaxRuntimeInSeconds": ONE_DAY, **body.get("StoppingCondition", {})},
            "TrainingJobArn": arn,
            "TrainingJobStatus": "InProgress",
            "SecondaryStatus": "Starting",
            "CreationTime": now,
            "LastModifiedTime": now,
            "ModelArtifacts": {"S3ModelArtifacts": artifacts},
        }


def _check(body: dict[str, Any]) -> None:
    """What the service checks beyond the shapes, and what the local cloud cannot do. Raises SageMakerError."""
    algorithm, resources = body["AlgorithmSpecification"], body.get("ResourceConfig")
    if "TrainingImage" not in algorithm:
        raise invalid("AlgorithmSpecification needs a TrainingImage; the local cloud has no algorithms of its own.")
    if "ContainerEntrypoint" in algorithm or "ContainerArguments" in algorithm:
        raise invalid("ContainerEntrypoint and ContainerArguments are not available in the local cloud.")
    _check_input_mode(algorithm["TrainingInputMode"], "AlgorithmSpecification")
    check_definitions(algorithm.get("MetricDefinitions", []))
    if not resources or resources.get("InstanceCount", 1) != 1 or "InstanceGroups" in resources:
        raise invalid("ResourceConfig: the local cloud trains on exactly one instance (InstanceCount 1).")
    names = [channel["ChannelName"] for channel in body.get("InputDataConfig", [])]
    if len(set(names)) != len(names):
        raise invalid("The channel names of InputDataConfig must be unique.")
    for channel in body.get("InputDataConfig", []):
        _check_channel(channel)
    parse_location(body["OutputDataConfig"]["S3OutputPath"])
    _check_checkpoints_and_limits(body)


def _check_channel(channel: dict[str, Any]) -> None:
    name = channel["ChannelName"]
    if not name.strip("."):
        raise invalid(f"The channel name {name!r} is not usable as a directory.")
    source = channel["DataSource"].get("S3DataSource")
    if source is None or source["S3DataType"] != "S3Prefix":
        raise invalid(f"Channel {name}: the local cloud reads S3DataSource with S3DataType S3Prefix only.")
    if channel.get("CompressionType", "None") != "None" or channel.get("RecordWrapperType", "None") != "None":
        raise invalid(f"Channel {name}: CompressionType and RecordWrapperType must be None in the local cloud.")
    _check_input_mode(channel.get("InputMode", "File"), f"Channel {name}")
    parse_location(source["S3Uri"])


def _check_input_mode(mode: str, where: str) -> None:
    if mode == "Pipe":
        raise invalid(f"{where}: the input mode Pipe is not available in the local cloud; use File or FastFile.")


def _check_checkpoints_and_limits(body: dict[str, Any]) -> None:
    checkpoints = body.get("CheckpointConfig")
    if checkpoints:
        parse_location(checkpoints["S3Uri"])
        directory_in_container(Path(), checkpoints.get("LocalPath", DEFAULT_CHECKPOINTS))
    limits = body.get("StoppingCondition", {})
    if body.get("EnableManagedSpotTraining"):
        if limits.get("MaxWaitTimeInSeconds", 0) < limits.get("MaxRuntimeInSeconds", ONE_DAY):
            raise invalid("Managed spot training needs a MaxWaitTimeInSeconds not less than MaxRuntimeInSeconds.")
        if (body.get("ResourceConfig") or {}).get("KeepAlivePeriodInSeconds"):
            raise invalid("KeepAlivePeriodInSeconds: there are no warm pools of managed spot training.")
    elif "MaxWaitTimeInSeconds" in limits:
        raise invalid("MaxWaitTimeInSeconds is for managed spot training only.")
