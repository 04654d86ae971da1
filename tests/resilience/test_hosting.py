"""An endpoint that does not come up, and one that dies with requests in its queue."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from contracts.errors import SubjectNotReady
from contracts.generation import GenerationRequest
from contracts.storage import base_model_prefix
from tests.e2e.conftest import photo, until
from tests.resilience.conftest import FaultyCloud, import_base_model

pytestmark = pytest.mark.resilience

REQUESTS = 24  # eight are drawn at a time
STEPS = 100  # two seconds of the program that stands in for the generator


def test_an_endpoint_that_does_not_come_up_fails_the_run_and_keeps_the_model(cloud: FaultyCloud) -> None:
    import_base_model(cloud, "fragile", {"refuses": b""})
    info = json.dumps({"instance_prompt": "a photo of sks ball", "base_model": "fragile"}).encode()
    files = {"a.png": photo(), "dataset_info.json": info}
    cloud.drop("hopeful", files)
    run = cloud.ended("hopeful")
    assert run.error is not None
    assert (run.status, run.error.code) == ("failed", "hosting_failed")
    assert "does not load" in run.error.cause
    assert cloud.versions("hopeful") == [run.version]  # trained, and kept
    with pytest.raises(SubjectNotReady, match="does not load"):
        cloud.client.generate(GenerationRequest(subject="hopeful", prompt="p"))

    cloud.s3.delete_object(Bucket=cloud.deployment.data_bucket, Key=base_model_prefix("fragile") + "refuses")
    cloud.drop("hopeful", files)
    until("the second run begins", lambda: (cloud.run("hopeful") or run).id != run.id)
    assert cloud.ended("hopeful").status == "succeeded"
    assert cloud.client.subject("hopeful").ready


def test_an_endpoint_that_dies_with_requests_in_its_queue_loses_none(cloud: FaultyCloud) -> None:
    """Those that it was drawing fail, with the cure; those that waited are drawn by its successor."""
    request = GenerationRequest(subject="first", prompt="p", num_inference_steps=STEPS)
    ids = [cloud.client.generate(request).id for _ in range(REQUESTS)]
    log = cloud.state / "sagemaker/endpoints/dreamdrop-toyworld/log.txt"

    def drawn() -> set[str]:
        return {line.split()[-1] for line in log.read_text().splitlines() if line.startswith("draws")}

    until("the endpoint draws", lambda: len(drawn() & set(ids)) >= 4)
    assert cloud.kill("inference_container") >= 1

    def ends() -> Counter[str] | None:
        counted = Counter(cloud.client.generation(one).status for one in ids)
        return None if counted["queued"] else counted

    counted = until("every request ends", ends)
    assert counted["succeeded"] + counted["failed"] == REQUESTS
    assert 1 <= counted["failed"] <= 8, counted
    for one in ids:
        generation = cloud.client.generation(one)
        if generation.status == "failed":
            assert generation.error is not None
            assert generation.error.code == "generation_failed"
            assert generation.error.cure
        else:
            assert len(generation.images) == 1
    assert cloud.set_aside() == {}
