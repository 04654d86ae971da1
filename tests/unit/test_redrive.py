"""Replaying what was set aside, with SQS as moto gives it. The whole way is in tests/e2e/test_redrive.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from moto import mock_aws
from pydantic import ValidationError

from contracts.dead_letters import DeadLetterQueue
from dreamdrop import redrive
from dreamdrop.deployment import STACK_OUTPUTS, Deployment


@pytest.fixture
def deployment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        outputs = dict.fromkeys(STACK_OUTPUTS, "x") | {"DeadLetters": '{"A": {"url": "u", "source_url": "s"}}'}
        yield Deployment.from_outputs(outputs, region="us-east-1")


def queue(deployment: Deployment, name: str, *bodies: str) -> str:
    sqs = deployment.client("sqs")
    url: str = sqs.create_queue(QueueName=name)["QueueUrl"]
    for body in bodies:
        attributes = {"kind": {"DataType": "String", "StringValue": "test"}}
        sqs.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=attributes)
    return url


def messages(deployment: Deployment, url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while (
        batch := deployment.client("sqs")
        .receive_message(QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"])
        .get("Messages")
    ):
        found += batch
    return found


def test_the_output_of_the_stack_names_the_queues(deployment: Deployment) -> None:
    assert deployment.dead_letters == {"A": DeadLetterQueue(url="u", source_url="s")}
    assert Deployment.model_validate_json(deployment.model_dump_json()) == deployment  # the local cloud's file
    with pytest.raises(ValidationError, match="either"):
        DeadLetterQueue(url="u")


def test_all_messages_go_back_with_their_attributes(deployment: Deployment) -> None:
    bodies = {f"message {number}" for number in range(23)}
    aside, source = queue(deployment, "aside", *bodies), queue(deployment, "source")
    found = DeadLetterQueue(url=aside, source_url=source)
    told = redrive.look(deployment, "A", found)
    assert (told.messages, told.oldest is not None) == (23, True)
    assert redrive.replay(deployment, found) == 23
    moved = messages(deployment, source)
    assert {message["Body"] for message in moved} == bodies
    assert all(message["MessageAttributes"]["kind"]["StringValue"] == "test" for message in moved)
    assert messages(deployment, aside) == []


def test_what_fails_again_at_once_is_not_replayed_for_ever(deployment: Deployment) -> None:
    url = queue(deployment, "aside", "one", "two")
    assert redrive.replay(deployment, DeadLetterQueue(url=url, source_url=url)) == 2
