"""Many datasets dropped at once: each is trained exactly once, none is lost, and none is slower for the company."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from contracts.storage import MANIFEST, MODELS
from dreamdrop.local.memory import tree_pids
from tests.e2e.conftest import photo, until
from tests.resilience.conftest import FaultyCloud, make_cloud

pytestmark = pytest.mark.resilience

SIZES = [int(size) for size in os.environ.get("DATASETS", "10,50,200").split(",")]
PATIENCE_SECONDS_A_DATASET = 4.0
# The seconds a dataset of the largest drop, over those of the drop nearest to a hundred.
CPU_TOLERANCE = 1.5
WALL_TOLERANCE = 2.5  # other tests may run beside this one, and not all the time
UPLOADERS = 4


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyCloud]:
    """A cloud of its own: what other tests leave must not slow this one."""
    made = make_cloud(tmp_path_factory.mktemp("crowd"), "--training-slots", "4")
    try:
        made.drop("first", {"a.png": photo()})
        made.assert_trained_once("first")
        yield made
    finally:
        made.running.stop()


def drop_all(cloud: FaultyCloud, subjects: list[str]) -> None:
    """Two photos each, then the first again: three events a dataset, of which one counts."""
    s3, bucket = cloud.s3, cloud.deployment.data_bucket

    def drop(subject: str) -> None:
        for name, seed in (("a", 1), ("b", 2), ("a", 1)):
            s3.put_object(Bucket=bucket, Key=f"datasets/{subject}/{name}.png", Body=PHOTOS[seed])

    with ThreadPoolExecutor(UPLOADERS) as pool:
        list(pool.map(drop, subjects))


PHOTOS = {seed: photo(seed, size=32) for seed in (1, 2)}


@dataclass(frozen=True)
class Spent:
    """Seconds a dataset: of the clock, and of the processors, for the cloud and all that it ran."""

    wall: float
    cpu: float


def cpu_seconds(root: int) -> float:
    """Of the process and its descendants, those that have ended included."""
    stats = [Path(f"/proc/{pid}/stat") for pid in tree_pids(root)]
    ticks = [
        int(tick) for stat in stats if stat.exists() for tick in stat.read_text().rpartition(")")[2].split()[11:15]
    ]
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def drop_and_wait(cloud: FaultyCloud, count: int) -> Spent:
    subjects = [f"one-of-{count}-{number:04}" for number in range(count)]
    began, cpu_before = time.monotonic(), cpu_seconds(cloud.running.pid)
    drop_all(cloud, subjects)
    statuses: dict[str, str] = {}

    def all_ended() -> bool:
        time.sleep(1 + count / 100)  # the list grows with the drop: looking at it must not be what takes the time
        statuses.update({subject.subject: subject.status for subject in cloud.client.subjects()})
        return all(statuses.get(subject, "running") != "running" for subject in subjects)

    until(f"{count} datasets reach an end", all_ended, max(120, count * PATIENCE_SECONDS_A_DATASET))
    wall, cpu = time.monotonic() - began, cpu_seconds(cloud.running.pid) - cpu_before
    assert Counter(statuses[subject] for subject in subjects) == {"succeeded": count}
    assert_each_trained_once(cloud, subjects)
    return Spent(round(wall / count, 3), round(cpu / count, 3))


def assert_each_trained_once(cloud: FaultyCloud, subjects: list[str]) -> None:
    once = dict.fromkeys(subjects, 1)
    executions = Counter(execution["name"].rpartition("-")[0] for execution in cloud.executions())
    assert {subject: executions[subject] for subject in subjects} == once
    jobs = Counter(job["TrainingJobName"][len("dreamdrop-") : -len("-0123456789ab-1")] for job in cloud.jobs())
    assert {subject: jobs[subject] for subject in subjects} == once
    pages = cloud.s3.get_paginator("list_objects_v2").paginate(Bucket=cloud.deployment.data_bucket, Prefix=MODELS)
    keys = [item["Key"].split("/") for page in pages for item in page["Contents"]]
    versions = Counter(key[1] for key in keys if key[-1] == MANIFEST and len(key) == 4)
    assert {subject: versions[subject] for subject in subjects} == once
    assert cloud.set_aside() == {}


def test_a_drop_of_many_datasets_trains_each_once_in_the_same_time(
    crowded: FaultyCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    spent = {count: drop_and_wait(crowded, count) for count in SIZES}
    with capsys.disabled():
        for count, seconds in spent.items():
            print(f"\n{count} datasets at once: {seconds.wall} s each, {seconds.cpu} s of processor time", end="")  # noqa: T201
    few, many = spent[min(SIZES, key=lambda size: abs(size - 100))], spent[max(SIZES)]
    assert many.wall <= WALL_TOLERANCE * few.wall, spent
    assert many.cpu <= CPU_TOLERANCE * few.cpu, spent
