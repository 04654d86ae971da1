"""One training job, from the download of its data to the upload of its model."""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import Any, Literal

from dreamdrop.local.images import ImageError
from dreamdrop.local.sagemaker.checkpoints import CheckpointSync
from dreamdrop.local.sagemaker.device_slots import DeviceSlots
from dreamdrop.local.sagemaker.errors import ClientFailure, EngineStopped
from dreamdrop.local.sagemaker.metrics import final_metrics
from dreamdrop.local.sagemaker.ml_layout import DEFAULT_CHECKPOINTS, TrainingLayout, directory_in_container
from dreamdrop.local.sagemaker.platform import Platform
from dreamdrop.local.sagemaker.processes import ContainerProcess
from dreamdrop.local.sagemaker.s3 import (
    download_prefix,
    files_of,
    parse_location,
    upload_archive,
    upload_directory,
)
from dreamdrop.local.sagemaker.store import Record, RecordStore

logger = logging.getLogger(__name__)

EVENT = "SageMaker Training Job State Change"
FAILURE_REASON_LIMIT = 1024
TERMINAL = ("Completed", "Failed", "Stopped")
_POLL_SECONDS = 0.1
_MESSAGES = {
    "Starting": "Preparing the instances for training",
    "Pending": "Waiting for the device of this machine",
    "Downloading": "Downloading input data",
    "Training": "Training image download completed. Training in progress.",
    "Interrupted": "Training job interrupted: its instance was reclaimed",
    "Stopping": "Stopping the training job",
    "Uploading": "Uploading generated training model",
    "Completed": "Training job completed",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job stopped: MaxRuntimeInSeconds reached",
    "MaxWaitTimeExceeded": "Training job stopped: MaxWaitTimeInSeconds reached",
    "Failed": "Training job failed",
}


Cause = Literal["exit", "stop", "limit", "wait", "reclaim"]


@dataclass(frozen=True)
class _Ending:
    exit_code: int
    cause: Cause


class JobRun:
    """Runs in a thread of its own; `stop` may be called from any other."""

    def __init__(self, job: Record, platform: Platform, store: RecordStore, slots: DeviceSlots) -> None:
        self._job = job
        self._name: str = job["TrainingJobName"]
        self._platform = platform
        self._store = store
        self._slots = slots
        self._layout = TrainingLayout(platform.work / "jobs" / self._name)
        self._stop = threading.Event()
        self._wait_ends = _after(job["StoppingCondition"].get("MaxWaitTimeInSeconds"))
        self._pending_ends = _after(job["StoppingCondition"].get("MaxPendingTimeInSeconds"))
        self.thread = threading.Thread(target=self._run, name=f"train-{self._name}", daemon=True)

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        try:
            with self._slots.hold(self._given_up, lambda: self._enter("Pending")) as has_device:
                self._platform.leave_if_closing()
                if not has_device or self._stop.is_set():
                    waited = not self._stop.is_set() and time.monotonic() >= self._wait_ends
                    self._end("Stopped", "MaxWaitTimeExceeded" if waited else "Stopped")
                elif reason := self._platform.disturbances.refuse_instance(self._job):
                    self._end("Failed", "Failed", reason)
                else:
                    self._execute()
        except EngineStopped:
            return  # the record stays InProgress; `restore` of the next engine fails it
        except (ClientFailure, ImageError) as error:
            self._end("Failed", "Failed", f"ClientError: {error}")
        except Exception as error:  # the thread's boundary: a job must reach an end
            logger.exception("The training job %s failed in the platform.", self._name)
            self._end("Failed", "Failed", f"InternalServerError: {error}")
        finally:
            self._layout.discard()  # photos and weights go with the instance, as in AWS

    def _execute(self) -> None:
        self._store.update(self._name, TrainingStartTime=time.time())
        s3 = self._platform.roles.client(self._job["RoleArn"], "s3")
        while (ending := self._on_an_instance(s3)).cause == "reclaim":
            self._enter("Interrupted")
            self._layout.discard()
            self._enter("Starting")
        self._enter("Uploading")
        self._upload(s3, ending)
        metrics = final_metrics(self._job["AlgorithmSpecification"].get("MetricDefinitions", []), self._layout.log)
        if metrics:
            self._store.update(self._name, FinalMetricDataList=metrics)
        self._conclude(ending)

    def _on_an_instance(self, s3: Any) -> _Ending:
        self._enter("Downloading")
        self._layout.create(self._job)
        for channel in self._job.get("InputDataConfig", []):
            source = parse_location(channel["DataSource"]["S3DataSource"]["S3Uri"])
            download_prefix(s3, source, self._layout.channel(channel["ChannelName"]))
        return self._train(self._checkpoints(s3))

    def _checkpoints(self, s3: Any) -> CheckpointSync | None:
        config = self._job.get("CheckpointConfig")
        local = directory_in_container(self._layout.base, (config or {}).get("LocalPath", DEFAULT_CHECKPOINTS))
        local.mkdir(parents=True, exist_ok=True)
        if not config:
            return None
        interval = self._platform.settings.checkpoint_interval_seconds
        sync = CheckpointSync(s3, local, parse_location(config["S3Uri"]), interval)
        sync.restore()
        return sync

    def _train(self, checkpoints: CheckpointSync | None) -> _Ending:
        self._platform.leave_if_closing()
        if self._stop.is_set():
            return _Ending(0, "stop")
        process = self._platform.processes.start(
            self._platform.resolve_image(self._job["AlgorithmSpecification"]["TrainingImage"]),
            "train",
            self._layout.base,
            self._environment(),
            self._layout.log,
        )
        self._enter("Training")
        if checkpoints:
            checkpoints.start()
        try:
            ending = self._watch(process)
        except EngineStopped:
            if checkpoints:
                checkpoints.abandon()
            raise
        finally:
            self._platform.processes.forget(process)
        if checkpoints:
            self._finish(checkpoints, ending)
        return ending

    def _finish(self, checkpoints: CheckpointSync, ending: _Ending) -> None:
        try:
            checkpoints.finish()
        except ClientFailure:
            if not self._failed(ending):
                raise
            logger.exception("The last checkpoints of %s are lost.", self._name)  # the program's own failure counts

    def _environment(self) -> dict[str, str]:
        isolated = self._job.get("EnableNetworkIsolation", False)  # such a container gets no credentials
        return {
            **({} if isolated else self._platform.roles.environment(self._job["RoleArn"])),
            **self._job.get("Environment", {}),
            "TRAINING_JOB_NAME": self._name,
            "TRAINING_JOB_ARN": self._job["TrainingJobArn"],
        }

    def _watch(self, process: ContainerProcess) -> _Ending:
        grace = self._platform.settings.training_stop_grace_seconds
        limit = time.monotonic() + self._job["StoppingCondition"]["MaxRuntimeInSeconds"]
        reclaim = _after(self._platform.disturbances.reclaim_after(self._job))
        cause: Cause = "exit"
        killing_time = math.inf
        while (code := process.wait(_POLL_SECONDS)) is None:
            now = time.monotonic()
            if self._platform.closing.is_set():
                raise EngineStopped
            if cause == "exit" and (self._stop.is_set() or now >= min(limit, self._wait_ends, reclaim)):
                cause = self._interruption(now, limit)
                killing_time = now + grace
                process.terminate()
            elif now >= killing_time:
                process.stop(0)
        self._platform.leave_if_closing()
        return _Ending(code, "stop" if self._stop.is_set() else cause)

    def _interruption(self, now: float, limit: float) -> Cause:
        if self._stop.is_set():
            return "stop"
        if now >= limit:
            return "limit"
        return "wait" if now >= self._wait_ends else "reclaim"

    def _upload(self, s3: Any, ending: _Ending) -> None:
        """The model of a job that did not fail; the output data of every job."""
        output = parse_location(self._job["OutputDataConfig"]["S3OutputPath"]).below(self._name, "output")
        compressed = self._job["OutputDataConfig"].get("CompressionType", "GZIP") == "GZIP"
        directories = [] if self._failed(ending) else [(self._layout.model, "model", "model.tar.gz")]
        if files_of(self._layout.output_data):
            directories.append((self._layout.output_data, "data", "output.tar.gz"))
        for directory, plain, archive in directories:
            if compressed:
                upload_archive(s3, directory, output.below(archive), self._layout.base / archive)
            else:
                upload_directory(s3, directory, output.below(plain))

    def _conclude(self, ending: _Ending) -> None:
        if ending.cause == "limit":
            self._end("Stopped", "MaxRuntimeExceeded")
        elif ending.cause == "wait":
            self._end("Stopped", "MaxWaitTimeExceeded")
        elif ending.cause == "stop":
            self._end("Stopped", "Stopped")
        elif ending.exit_code:
            text = self._layout.failure_text() or "See the job's log.txt for more information"
            self._end("Failed", "Failed", algorithm_error(text, ending.exit_code))
        else:
            self._end("Completed", "Completed")

    @staticmethod
    def _failed(ending: _Ending) -> bool:
        return ending.cause == "exit" and ending.exit_code != 0

    def _given_up(self) -> bool:
        waited = time.monotonic() >= min(self._wait_ends, self._pending_ends)
        return waited or self._stop.is_set() or self._platform.closing.is_set()

    def _enter(self, secondary: str) -> None:
        enter(self._store, self._name, secondary)

    def _end(self, status: str, secondary: str, reason: str | None = None) -> None:
        end_job(self._store, self._platform, self._name, status, secondary, reason)


def _after(seconds: float | None) -> float:
    return math.inf if seconds is None else time.monotonic() + seconds


def algorithm_error(text: str, exit_code: int) -> str:
    """FailureReason of a program that failed; a long text is cut so that the exit code stays."""
    tail = f", exit code: {exit_code}"
    return f"AlgorithmError: {text}"[: FAILURE_REASON_LIMIT - len(tail)] + tail


def enter(store: RecordStore, name: str, secondary: str, **changes: Any) -> Record:
    """Moves a job to its next secondary status and keeps the history of them."""
    now = time.time()
    with store.transaction():
        transitions = (store.get(name) or {}).get("SecondaryStatusTransitions", [])
        if transitions:
            transitions[-1].setdefault("EndTime", now)
        transitions.append({"Status": secondary, "StartTime": now, "StatusMessage": _MESSAGES[secondary]})
        return store.update(
            name, SecondaryStatus=secondary, LastModifiedTime=now, SecondaryStatusTransitions=transitions, **changes
        )


def end_job(
    store: RecordStore, platform: Platform, name: str, status: str, secondary: str, reason: str | None = None
) -> None:
    now = time.time()
    started = (store.get(name) or {}).get("TrainingStartTime")
    seconds = None if started is None else max(math.ceil(now - started), 1)
    job = enter(
        store,
        name,
        secondary,
        TrainingJobStatus=status,
        TrainingEndTime=now,
        TrainingTimeInSeconds=seconds,
        BillableTimeInSeconds=seconds,
        FailureReason=reason[:FAILURE_REASON_LIMIT] if reason else None,
    )
    platform.tell(EVENT, job, job["TrainingJobArn"])
