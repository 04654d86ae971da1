"""Messages that were set aside are replayed: by a queue's consumer, and by a function that EventBridge calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contracts.storage import run_item, subject_item
from dreamdrop.cli import app, run_command_line
from dreamdrop.deployment import Deployment
from tests.e2e.conftest import Cloud, until

pytestmark = pytest.mark.e2e


@pytest.fixture
def broken(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> str:
    """A subject whose only run failed: nothing is trained for it."""
    monkeypatch.setattr(Deployment, "local", lambda: cloud.deployment)
    cloud.drop("shard", {"a.png": b"no picture"})
    cloud.failed("shard")
    return "shard"


def redrive(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, Any]]:
    assert run_command_line(lambda: app(["redrive", *arguments])) == 0
    return {one["queue"]: one for one in json.loads(capsys.readouterr().out)}


def set_aside(cloud: Cloud, about: str, message: dict[str, Any]) -> None:
    url = cloud.deployment.dead_letters[about].url
    cloud.deployment.client("sqs").send_message(QueueUrl=url, MessageBody=json.dumps(message))


def table(cloud: Cloud) -> Any:
    session = cloud.deployment.session()
    return session.resource("dynamodb", endpoint_url=cloud.deployment.endpoint_url).Table(cloud.deployment.table_name)


def write(cloud: Cloud, key: dict[str, str], **values: Any) -> None:
    """As a function would have left the row that died right after."""
    names = {f"#{name}": name for name in values}
    table(cloud).update_item(
        Key=key,
        UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in values),
        ExpressionAttributeNames=names,
        ExpressionAttributeValues={f":{name}": value for name, value in values.items()},
    )


def test_what_was_set_aside_is_listed_and_replayed(
    cloud: Cloud, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = cloud.run(broken)
    assert run is not None
    key = run_item(broken, f"{broken}-{'f' * 12}")._asdict()  # a run that nothing else knows of
    stages = [{"stage": "taken", "at": run.stages[0].at.isoformat()}]
    taken = {"subject": broken, "dataset_id": "f" * 12, "run_id": f"{broken}-{'f' * 12}"}
    write(cloud, key, status="running", stage="taken", stages=stages, **taken)
    event = {
        "version": "0", "id": "1", "source": "aws.states", "account": "1", "time": "2026-01-01T00:00:00Z",
        "region": "us-east-1", "resources": [], "detail-type": "Step Functions Execution Status Change",
        "detail": {"status": "ABORTED", "input": json.dumps(taken)},
    }  # fmt: skip
    set_aside(cloud, "BrokenExecutions", {"requestContext": {"condition": "RetriesExhausted"}, "requestPayload": event})

    listed = redrive(capsys, "--dry-run")
    assert set(listed) == set(cloud.deployment.dead_letters)
    assert {name: one["messages"] for name, one in listed.items() if one["messages"]} == {"BrokenExecutions": 1}
    assert listed["BrokenExecutions"]["oldest"]
    assert listed["Datasets"]["oldest"] is None
    assert redrive(capsys, "BrokenExecutions")["BrokenExecutions"]["replayed"] == 1
    rows = table(cloud)
    error = until("the run is closed", lambda: rows.get_item(Key=key, ConsistentRead=True)["Item"].get("error"))
    assert error["code"] == "interrupted"
    rows.delete_item(Key=key)

    asked_at = run.stages[0].at.isoformat()
    write(cloud, subject_item(broken)._asdict(), deletion_requested_at=asked_at, deletion_requested_by="somebody")
    set_aside(cloud, "Deletions", {"subject": broken})
    assert redrive(capsys)["Deletions"]["replayed"] == 1
    cloud.client.wait_until_gone(broken, timeout_seconds=60, poll_seconds=0.1)
    assert not any(one["messages"] for one in redrive(capsys, "--dry-run").values())


def test_a_queue_that_does_not_exist_is_told_with_those_that_do(
    cloud: Cloud, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(lambda: app(["redrive", "Letters"])) == 1
    assert "Generations" in capsys.readouterr().err
