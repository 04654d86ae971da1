"""What may befall a training job, and how the run ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from contracts.artifact import VersionManifest
from contracts.storage import version_manifest_key
from contracts.training import MEMORY_TIER
from dreamdrop.local.faults import PROVISION, RUN_JOB, Fault
from tests.e2e.conftest import TINY, dataset_info, import_tiny_base_model, photo
from tests.resilience.conftest import FaultyCloud, orders

pytestmark = pytest.mark.resilience


def statuses(jobs: list[dict[str, Any]]) -> list[str]:
    return [job["TrainingJobStatus"] for job in jobs]


def test_no_capacity_on_the_first_two_rungs_takes_the_third(cloud: FaultyCloud) -> None:
    subject, full = "no-capacity", ["ml.g5.xlarge", "ml.g5.2xlarge"]
    cloud.upset(*(Fault(kind="no capacity", action=PROVISION, about=[subject, rung], times=9) for rung in full))
    cloud.drop(subject, {"a.png": photo()})
    run = cloud.assert_trained_once(subject)
    jobs = cloud.jobs_of(subject)
    assert statuses(jobs) == ["Failed", "Failed", "Completed"]
    assert [job["ResourceConfig"]["InstanceType"] for job in jobs] == [*full, "ml.g4dn.xlarge"]
    assert run.quote is not None
    assert run.quote.instance_type == "ml.g4dn.xlarge"


def test_no_capacity_on_any_rung_ends_with_the_cure(cloud: FaultyCloud) -> None:
    cloud.upset(Fault(kind="no capacity", action=PROVISION, about=["full-house"], times=99))
    cloud.drop("full-house", {"a.png": photo()})
    run = cloud.ended("full-house")
    assert run.error is not None
    assert (run.status, run.error.code) == ("failed", "no_capacity")
    assert "again" in run.error.cure
    assert "Completed" not in statuses(cloud.jobs_of("full-house"))


def test_out_of_memory_once_trains_on_with_less(cloud: FaultyCloud) -> None:
    cloud.drop("memory", {"a.png": photo(), "a.txt": orders(needs_memory_tier=1)})
    run = cloud.assert_trained_once("memory")
    jobs = cloud.jobs_of("memory")
    assert statuses(jobs) == ["Failed", "Completed"]
    assert [job["HyperParameters"][MEMORY_TIER] for job in jobs] == ["0", "1"]
    assert run.attempt == 2


def test_an_instance_that_is_reclaimed_twice_goes_on_from_its_checkpoints(cloud: FaultyCloud) -> None:
    cloud.upset(Fault(kind="reclaimed", action=RUN_JOB, about=["spotty"], times=2, seconds=1))
    cloud.drop("spotty", {"a.png": photo(), "a.txt": orders(steps=40, step_seconds=0.1)})
    run = cloud.assert_trained_once("spotty")
    [job] = cloud.jobs_of("spotty")
    entered = [transition["Status"] for transition in job["SecondaryStatusTransitions"]]
    assert entered.count("Interrupted") == 2
    starts = [int(line.split()[-1]) for line in cloud.log_of(job).splitlines() if line.startswith("starts")]
    assert starts[0] == 0
    assert len(starts) == 3
    assert starts == sorted(set(starts)), "each start goes on from a later checkpoint"
    manifest = version_manifest_key("spotty", str(run.version))
    content = cloud.s3.get_object(Bucket=cloud.deployment.data_bucket, Key=manifest)["Body"].read()
    artifact = VersionManifest.model_validate_json(content).artifact
    assert artifact.versions["first step"] == str(starts[-1])


def test_a_full_disk_ends_with_its_name_and_the_cure(cloud: FaultyCloud, tmp_path: Path) -> None:
    """The real trainer, on a disk that is too small for the model."""
    import_tiny_base_model(cloud.deployment, tmp_path / TINY)
    caption = orders(real=True, disk_bytes=64_000)
    cloud.drop("disk", {"a.png": photo(), "a.txt": caption, "dataset_info.json": dataset_info(2)})
    run = cloud.ended("disk")
    assert run.error is not None
    assert (run.status, run.error.code) == ("failed", "out_of_disk")
    assert run.error.cure
    assert cloud.versions("disk") == []
    assert cloud.set_aside() == {}
