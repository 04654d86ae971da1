"""One local cloud for all end-to-end tests, with IAM enforced, from the unmodified templates."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from PIL import Image, ImageDraw
from pillow_heif import register_heif_opener

from contracts.errors import UnknownSubject
from contracts.pipeline import Run, Subject
from contracts.storage import dataset_prefix
from dreamdrop.base_models import describe_directory, import_directory
from dreamdrop.client import Client
from dreamdrop.deployment import Deployment
from dreamdrop.local import process
from dreamdrop.local.process import LocalCloudProcess
from dreamdrop.up import free_port
from tests.synthesized import PROJECT, synthesized

PATIENCE_SECONDS = 120.0
TINY = "tiny"

Found = TypeVar("Found")


def until(what: str, look: Callable[[], Found | None], seconds: float = PATIENCE_SECONDS) -> Found:
    """Polls; fails the test by name when it never comes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"not within {seconds:.0f} s: {what}")


@dataclass
class Cloud:
    """The local cloud as a user has it: a bucket, an API, and the processes behind."""

    running: LocalCloudProcess
    port: int
    state: Path
    deployment: Deployment = field(init=False)
    client: Client = field(init=False)

    def __post_init__(self) -> None:
        self.deployment = self.running.deployment()
        self.client = Client(self.deployment)

    @property
    def s3(self) -> Any:
        return self.deployment.client("s3")

    def drop(self, subject: str, files: dict[str, bytes]) -> None:
        s3 = self.s3
        for path, content in files.items():
            s3.put_object(Bucket=self.deployment.data_bucket, Key=dataset_prefix(subject) + path, Body=content)

    def subject(self, name: str) -> Subject | None:
        """Also for names that the client would refuse to ask for."""
        try:
            return self.client.subject(name)
        except UnknownSubject:
            return None

    def run(self, name: str) -> Run | None:
        found = self.subject(name)
        return found.run if found else None

    def reached(self, name: str, stage: str) -> Run:
        """The subject's newest run, once it has entered the stage."""

        def look() -> Run | None:
            run = self.run(name)
            assert run is None or run.status != "failed" or stage == "failed", run
            return run if run and stage in {entry.stage for entry in run.stages} else None

        return until(f"{name} enters {stage}", look)

    def failed(self, name: str) -> Run:
        def look() -> Run | None:
            run = self.run(name)
            return run if run and run.status != "running" else None

        run = until(f"the run of {name} ends", look)
        assert run.status == "failed", run
        return run

    def executions(self) -> list[dict[str, Any]]:
        listed = self.deployment.client("stepfunctions").list_executions(
            stateMachineArn=self.deployment.state_machine_arn
        )
        executions: list[dict[str, Any]] = listed["executions"]
        return executions

    def kill(self, program: str) -> int:
        """SIGKILL to every process of a container program (`training_container train`); how many there were."""
        listing = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
        lines = [line.split(None, 1) for line in listing.splitlines()]
        victims = [int(pid) for pid, arguments in lines if program in arguments and self._is_mine(int(pid))]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        return len(victims)

    def _is_mine(self, pid: int) -> bool:
        try:
            return str(self.state) in Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        except OSError:
            return False

    def restart(self) -> None:
        self.running.stop()
        self.running = start(self.state, self.port)
        self.__post_init__()


def import_tiny_base_model(deployment: Deployment, directory: Path) -> None:
    """Random weights: here nobody looks at the pictures. The default base model is drawn with in test_readme.py."""
    # A program of its own: it loads torch, which this process never needs.
    subprocess.run([sys.executable, "-m", "toyworld.tiny", str(directory)], cwd=PROJECT, check=True)
    manifest = describe_directory(directory, TINY, "random weights", "Apache-2.0")
    import_directory(deployment, directory, manifest, lambda _file, _done, _total: None)


def start(state: Path, port: int) -> LocalCloudProcess:
    return process.start(synthesized(), state, port, auth=True, log=state.parent / "cloud.log")


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp("cloud")
    port = free_port(0)
    made = Cloud(start(folder / "state", port), port, folder / "state")
    try:
        import_tiny_base_model(made.deployment, folder / TINY)
        yield made
    finally:
        made.running.stop()


@dataclass
class Inbox:
    """Messages of the subject topic, as a subscribed queue sees them."""

    sqs: Any
    url: str
    seen: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def subscribe(cls, deployment: Deployment) -> Inbox:
        sqs, sns = deployment.client("sqs"), deployment.client("sns")
        url = sqs.create_queue(QueueName="inbox")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        allow = {"Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage"}
        policy = {"Version": "2012-10-17", "Statement": [{**allow, "Resource": arn}]}
        sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(policy)})
        sns.subscribe(
            TopicArn=deployment.subject_topic_arn,
            Protocol="sqs",
            Endpoint=arn,
            Attributes={"RawMessageDelivery": "true"},
        )
        return cls(sqs, url)

    def about(self, subject: str) -> list[dict[str, Any]]:
        while True:
            messages = self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages", [])
            if not messages:
                return [message for message in self.seen if message["subject"] == subject]
            for message in messages:
                self.seen.append(json.loads(message["Body"]))
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])


@pytest.fixture(scope="session")
def inbox(cloud: Cloud) -> Inbox:
    return Inbox.subscribe(cloud.deployment)


register_heif_opener()


def photo(seed: int = 0, kind: str = "PNG", size: int = 96) -> bytes:
    """A ball on a coloured ground."""
    dice = random.Random(seed)
    picture = Image.new("RGB", (size, size), tuple(dice.randrange(100, 256) for _ in range(3)))
    ImageDraw.Draw(picture).ellipse([20, 20, 70 + seed, 70 + seed], fill=(200, 30, 40))
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def dataset_info(steps: int = 8, **more: Any) -> bytes:
    hyperparameters = {"max_steps": steps, "resolution": 64, **more}
    info = {"instance_prompt": "a photo of sks ball", "class_prompt": "a photo of a ball", "base_model": TINY}
    return json.dumps(info | {"hyperparameters": hyperparameters}).encode()
