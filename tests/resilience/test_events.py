"""Events twice, late, in any order, and clocks that disagree: a drop counts once, and none is overlooked."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.pipeline import Run
from contracts.storage import dataset_prefix
from tests.e2e.conftest import photo, until
from tests.resilience.conftest import FaultyCloud

pytestmark = pytest.mark.resilience

MINUTES = 4  # AWS takes signatures that are five minutes off, no more

CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += atoi(getenv("CLOCK_OFFSET_SECONDS"));
    return failed;
}
"""


def event(cloud: FaultyCloud, subject: str, file: str, at: datetime) -> str:
    """S3's "Object Created", as the rule puts it into the intake queue."""
    return json.dumps(
        {
            "version": "0", "id": "1", "detail-type": "Object Created", "source": "aws.s3", "account": "000000000000",
            "time": at.strftime("%Y-%m-%dT%H:%M:%SZ"), "region": "us-east-1", "resources": [],
            "detail": {
                "version": "0", "bucket": {"name": cloud.deployment.data_bucket}, "reason": "PutObject",
                "object": {"key": dataset_prefix(subject) + file, "size": 1, "etag": "e", "sequencer": "1"},
                "request-id": "r", "requester": "000000000000", "source-ip-address": "127.0.0.1",
            },
        }
    )  # fmt: skip


def deliver(cloud: FaultyCloud, events: list[str]) -> None:
    """Without the delay, and returns when all have been handled."""
    sqs = cloud.service("sqs")
    [intake] = [url for name, url in cloud.queues().items() if "IntakeQueue" in name]
    for body in events:
        sqs.send_message(QueueUrl=intake, MessageBody=body, DelaySeconds=0)
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    names.append("ApproximateNumberOfMessagesDelayed")

    def is_empty() -> bool:
        counts = sqs.get_queue_attributes(QueueUrl=intake, AttributeNames=names)["Attributes"]
        return all(counts[name] == "0" for name in names)

    until("the intake queue is empty", is_empty)


def uploaded_at(cloud: FaultyCloud, subject: str) -> datetime:
    listed = cloud.s3.list_objects_v2(Bucket=cloud.deployment.data_bucket, Prefix=dataset_prefix(subject))
    newest: datetime = max(item["LastModified"] for item in listed["Contents"])
    return newest.astimezone(UTC)


def test_events_that_come_twice_and_in_the_wrong_order_train_once(cloud: FaultyCloud) -> None:
    files = {f"{number}.png": photo(number) for number in range(3)}
    cloud.drop("shuffled", files)
    uploaded = uploaded_at(cloud, "shuffled")
    events = [
        event(cloud, "shuffled", file, uploaded - timedelta(seconds=age))
        for file in files
        for age in (0, 0, 1, 3, 60)
        for _ in range(4)
    ]
    random.Random(7).shuffle(events)
    deliver(cloud, events)
    run = cloud.assert_trained_once("shuffled")

    # The next dataset replaces it; then the old events come once more.
    cloud.drop("shuffled", {"0.png": photo(9)})
    second = until("the second run begins", lambda: newer(cloud, "shuffled", run))
    assert cloud.ended("shuffled").status == "succeeded"
    deliver(cloud, events)
    assert len(cloud.executions_of("shuffled")) == 2
    assert cloud.client.subject("shuffled").version == second.id.removeprefix("shuffled-") + "-1"
    assert cloud.set_aside() == {}


def newer(cloud: FaultyCloud, subject: str, than: Run) -> Run | None:
    run = cloud.run(subject)
    return run if run and run.id != than.id else None


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cc"):
        pytest.skip("a clock that goes wrong is made with a C compiler, and there is none")
    folder = tmp_path_factory.mktemp("clock")
    (folder / "clock.c").write_text(CLOCK)
    command = ["cc", "-shared", "-fPIC", "-o", "clock.so", "clock.c", "-ldl"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "clock.so"


@pytest.fixture(params=[-MINUTES, MINUTES], ids=["behind", "ahead"])
def skewed(cloud: FaultyCloud, clock: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The clock of every function is off; that of S3 is not."""
    functions = cloud.service("lambda")
    known = functions.list_functions()["Functions"]
    before = {function["FunctionName"]: function["Environment"]["Variables"] for function in known}
    off = {"LD_PRELOAD": str(clock), "CLOCK_OFFSET_SECONDS": str(60 * request.param)}
    configure(functions, {name: {**variables, **off} for name, variables in before.items()})
    yield "behind" if request.param < 0 else "ahead"
    configure(functions, before)


def configure(functions: Any, variables: dict[str, dict[str, str]]) -> None:
    for name, values in variables.items():
        functions.update_function_configuration(FunctionName=name, Environment={"Variables": values})


def test_a_clock_that_is_off_neither_loses_a_drop_nor_trains_twice(cloud: FaultyCloud, skewed: str) -> None:
    subject = f"clock-{skewed}"
    cloud.drop(subject, {"a.png": photo()})
    run = cloud.assert_trained_once(subject)
    offset = (run.stages[0].at - uploaded_at(cloud, subject)).total_seconds()
    assert abs(offset) > 60 * (MINUTES - 1), "the functions' clock is not off: this shows nothing"

    broken = f"broken-{skewed}"
    cloud.drop(broken, {"a.png": b"no picture"})
    failed = cloud.ended(broken)
    assert failed.error is not None
    assert failed.error.code == "unreadable_image"
    deliver(cloud, [event(cloud, broken, "a.png", uploaded_at(cloud, broken))] * 3)
    assert [execution["name"] for execution in cloud.executions_of(broken)] == [failed.id], "an old event is no drop"

    cloud.drop(broken, {"a.png": b"no picture"})
    until("the same photos, dropped again after the failure, are taken again", lambda: newer(cloud, broken, failed), 30)
    assert cloud.ended(broken).status == "failed"
    assert cloud.set_aside() == {}
