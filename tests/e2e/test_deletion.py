"""A subject is deleted: nothing of it is left in the cloud, and its name is free."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.errors import SubjectNotReady, UnknownGeneration, UnknownSubject
from contracts.generation import GenerationRequest
from contracts.storage import ALL_DELETIONS, generation_prefix
from dreamdrop.cli import app, run_command_line
from dreamdrop.deployment import Deployment
from tests.e2e.conftest import Cloud, dataset_info, photo

pytestmark = pytest.mark.e2e

FILES = {"a.png": photo(4), "dataset_info.json": dataset_info(4)}


def objects(cloud: Cloud, *parts: str) -> list[str]:
    """Keys, also of former versions, that hold one of these."""
    pages = cloud.s3.get_paginator("list_object_versions").paginate(Bucket=cloud.deployment.data_bucket)
    found = [item["Key"] for page in pages for kind in ("Versions", "DeleteMarkers") for item in page.get(kind, [])]
    return [key for key in found if any(part in key for part in parts)]


def rows(cloud: Cloud) -> list[dict[str, Any]]:
    dynamodb = cloud.deployment.client("dynamodb")
    [name] = dynamodb.list_tables()["TableNames"]
    items: list[dict[str, Any]] = dynamodb.scan(TableName=name)["Items"]
    return items


def test_a_deleted_subject_leaves_a_record_and_a_free_name(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud.drop("doomed", FILES)
    first = cloud.client.wait_until_ready("doomed", poll_seconds=0.1)
    request = GenerationRequest(subject="doomed", prompt="p", num_inference_steps=2)
    drawn = cloud.client.wait_for_generation(cloud.client.generate(request).id, poll_seconds=0.1)
    outputs = set(objects(cloud, "inference/output/"))
    assert objects(cloud, "/doomed/")
    assert objects(cloud, generation_prefix(drawn.id))

    assert cloud.client.delete("doomed").status == "deleting"
    with pytest.raises((SubjectNotReady, UnknownSubject)):
        cloud.client.generate(request)
    cloud.client.wait_until_gone("doomed", timeout_seconds=60, poll_seconds=0.1)

    assert objects(cloud, "/doomed/", generation_prefix(drawn.id)) == []
    assert len(outputs - set(objects(cloud, "inference/output/"))) == 1
    with pytest.raises(UnknownGeneration):
        cloud.client.generation(drawn.id)
    deletions = [row for row in rows(cloud) if row["pk"]["S"] == ALL_DELETIONS]
    [record] = [row for row in deletions if row["subject"]["S"] == "doomed"]
    assert int(record["objects"]["N"]) > 10
    assert [row for row in rows(cloud) if "doomed" in row["pk"]["S"]] == []

    cloud.drop("doomed", FILES)
    again = cloud.reached("doomed", "training")
    assert first.run is not None
    assert again.id != first.run.id

    monkeypatch.setattr(Deployment, "local", lambda: cloud.deployment)
    assert run_command_line(lambda: app(["delete", "doomed", "--yes"])) == 0
    assert objects(cloud, "/doomed/") == []
    ended = {execution["name"]: execution["status"] for execution in cloud.executions()}
    assert ended[again.id] != "RUNNING"
    jobs = cloud.deployment.client("sagemaker").list_training_jobs(StatusEquals="InProgress")
    assert jobs["TrainingJobSummaries"] == []
