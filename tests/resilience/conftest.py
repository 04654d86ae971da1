"""A local cloud in which things go wrong when a test says so.

Real: the templates, the functions, the state machine, the queues, IAM, and a process for each function, training job
and endpoint. Stood in for: the two container programs, by those in programs/, which learn and draw nothing.
Shortened: the waits between retries, and how long a message stays hidden after a failure.
"""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from contracts.artifact import BaseModelManifest, FileEntry, checksum_of
from contracts.pipeline import Run
from contracts.storage import MANIFEST, base_model_prefix, models_prefix
from dreamdrop.local import process
from dreamdrop.local.faults import Fault, KnownFault
from dreamdrop.local.images import staged_images
from dreamdrop.local.plugins.fault_injection import CONTROL_PATH
from dreamdrop.local.process import LocalCloudProcess
from dreamdrop.up import free_port
from tests.e2e.conftest import Cloud, Inbox, photo, until
from tests.synthesized import synthesized

PROGRAMS = Path(__file__).parent / "programs"
BASE_MODEL = "toyworld"  # the local default, so that a dataset is nothing but photos
HIDDEN_SECONDS = 8  # a message whose handling failed
WAITS = {"SFN_WAIT_SCALE": "0.1", "LAMBDA_ASYNC_RETRY_BASE_SECONDS": "0.2"}


def orders(**orders: Any) -> bytes:
    """A caption for the training program that takes the real one's place:

    steps, step_seconds: how long it takes, with a checkpoint after each step
    needs_memory_tier: below it, the program ends as one that ran out of memory
    real: the real program runs; disk_bytes: on a disk of that size
    """
    return json.dumps(orders).encode()


LOOK_SECONDS = 0.3  # between two looks at a run: looking must not be what takes the time


@dataclass
class FaultyCloud(Cloud):
    _services: dict[str, Any] = field(default_factory=dict)

    def service(self, name: str) -> Any:
        """Its client, made once: that takes as long as a training here."""
        if name not in self._services:
            self._services[name] = self.deployment.client(name)
        return self._services[name]

    @property
    def s3(self) -> Any:
        return self.service("s3")

    def upset(self, *faults: Fault) -> None:
        self._control("PUT", json.dumps([fault.model_dump() for fault in faults]).encode())

    def faults(self, *about: str) -> list[KnownFault]:
        known = [KnownFault.model_validate(fault) for fault in json.loads(self._control("GET"))]
        return [fault for fault in known if set(about) <= set(fault.about)]

    def _control(self, method: str, body: bytes | None = None) -> bytes:
        url = f"{self.deployment.endpoint_url}{CONTROL_PATH}"
        with urllib.request.urlopen(urllib.request.Request(url, body, method=method), timeout=60) as answer:
            content: bytes = answer.read()
            return content

    def ended(self, subject: str, seconds: float = 120) -> Run:
        def look() -> Run | None:
            run = self.run(subject)
            if run and run.status != "running":
                return run
            time.sleep(LOOK_SECONDS)
            return None

        return until(f"the run of {subject} ends", look, seconds)

    def executions_of(self, subject: str) -> list[dict[str, Any]]:
        return [execution for execution in self.executions() if execution["name"].rpartition("-")[0] == subject]

    def executions(self) -> list[dict[str, Any]]:
        pages = self.service("stepfunctions").get_paginator("list_executions")
        machine = self.deployment.state_machine_arn
        return [execution for page in pages.paginate(stateMachineArn=machine) for execution in page["executions"]]

    def jobs_of(self, subject: str) -> list[dict[str, Any]]:
        """Training jobs, first to last."""
        sagemaker = self.service("sagemaker")
        names = [job["TrainingJobName"] for job in self.jobs(f"dreamdrop-{subject}-")]
        return [sagemaker.describe_training_job(TrainingJobName=name) for name in names]

    def jobs(self, name_contains: str = "dreamdrop-") -> list[dict[str, Any]]:
        pages = self.service("sagemaker").get_paginator("list_training_jobs")
        return [job for page in pages.paginate(NameContains=name_contains) for job in page["TrainingJobSummaries"]]

    def log_of(self, job: dict[str, Any]) -> str:
        return (self.state / "sagemaker/jobs" / job["TrainingJobName"] / "log.txt").read_text()

    def versions(self, subject: str) -> list[str]:
        found = self.s3.list_objects_v2(Bucket=self.deployment.data_bucket, Prefix=models_prefix(subject))
        keys = [item["Key"].removeprefix(models_prefix(subject)) for item in found.get("Contents", [])]
        return [key.removesuffix(f"/{MANIFEST}") for key in keys if key.endswith(f"/{MANIFEST}")]

    def assert_trained_once(self, subject: str) -> Run:
        """The dataset reached its end: one execution, one job that gave a model, one version, which is served."""
        run = self.ended(subject)
        assert run.status == "succeeded", run
        assert [execution["name"] for execution in self.executions_of(subject)] == [run.id]
        completed = [job for job in self.jobs_of(subject) if job["TrainingJobStatus"] == "Completed"]
        assert len(completed) == 1
        assert self.log_of(completed[0]).count("starts at step") >= 1
        assert self.versions(subject) == [run.version]
        assert self.client.subject(subject).version == run.version
        return run

    def queues(self) -> dict[str, str]:
        sqs = self.service("sqs")
        return {url.rpartition("/")[2]: url for url in sqs.list_queues()["QueueUrls"]}

    def set_aside(self) -> dict[str, int]:
        """Messages in dead-letter queues, where there are any."""
        sqs = self.service("sqs")
        name = "ApproximateNumberOfMessages"
        counts = {
            queue: int(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])["Attributes"][name])
            for queue, url in self.queues().items()
            if "DeadLetters" in queue
        }
        assert counts, "no dead-letter queue was found"
        return {queue: count for queue, count in counts.items() if count}


def start(folder: Path, *options: str) -> LocalCloudProcess:
    """A cloud whose images hold the programs of this folder."""
    cdk_out = folder / "cdk.out"
    if not cdk_out.exists():
        shutil.copytree(synthesized(), cdk_out)
        for context, dockerfile in staged_images(cdk_out).values():
            program = dockerfile.parent / "__main__.py"
            program.rename(program.with_name("real.py"))
            shutil.copy(PROGRAMS / STANDS_IN[dockerfile.parent.relative_to(context).name], program)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in WAITS.items():
            patch.setenv(name, value)
        log = folder / "cloud.log"
        options = ("--faults", *options)
        return process.start(cdk_out, folder / "state", free_port(0), auth=True, log=log, options=options)


STANDS_IN = {"training_container": "trainer.py", "inference_container": "generator.py"}


def import_base_model(cloud: Cloud, name: str, files: dict[str, bytes]) -> None:
    """A few bytes: the programs look at the manifest only."""
    content = {"model_index.json": b"{}", **files}
    entries = [FileEntry(path=path, size=len(body), sha256="0" * 64) for path, body in content.items()]
    manifest = BaseModelManifest(
        id=name, files=entries, checksum=checksum_of(entries), resolution=64, source="a test", licence="Apache-2.0"
    )
    for path, body in {**content, MANIFEST: manifest.model_dump_json().encode()}.items():
        cloud.s3.put_object(Bucket=cloud.deployment.data_bucket, Key=base_model_prefix(name) + path, Body=body)


def make_cloud(folder: Path, *options: str) -> FaultyCloud:
    running = start(folder, *options)
    cloud = FaultyCloud(running, 0, folder / "state")
    import_base_model(cloud, BASE_MODEL, {})
    sqs = cloud.service("sqs")
    for name, url in cloud.queues().items():
        if "DeadLetters" not in name:
            sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": str(HIDDEN_SECONDS)})
    return cloud


def one_message_at_a_time(cloud: FaultyCloud, function: str) -> None:
    """So that the death of the function is the death of one message's handling."""
    functions = cloud.service("lambda")
    mappings = functions.list_event_source_mappings()["EventSourceMappings"]
    [mapping] = [mapping for mapping in mappings if function in mapping["FunctionArn"]]
    functions.update_event_source_mapping(UUID=mapping["UUID"], BatchSize=1)


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyCloud]:
    made = make_cloud(tmp_path_factory.mktemp("cloud"), "--training-slots", "4")
    try:
        one_message_at_a_time(made, "TakeDataset")
        made.drop("first", {"a.png": photo()})  # makes the endpoint that all others share
        made.assert_trained_once("first")
        yield made
    finally:
        made.running.stop()


@pytest.fixture(scope="session")
def inbox(cloud: FaultyCloud) -> Inbox:
    return Inbox.subscribe(cloud.deployment)
