"""Messages that were set aside: how many there are, and back with them to where they could not be handled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from contracts.dead_letters import DeadLetterQueue
from contracts.errors import InternalError, InvalidRequest
from dreamdrop.deployment import Deployment

BATCH = 10  # the most that SQS hands out at once
HIDDEN_SECONDS = 60  # from others, while a batch is moved


@dataclass(frozen=True)
class SetAside:
    queue: str
    messages: int
    oldest: datetime | None  # of up to ten that were looked at

    def plain(self) -> dict[str, Any]:
        return {
            "queue": self.queue,
            "messages": self.messages,
            "oldest": self.oldest.isoformat(timespec="seconds") if self.oldest else None,
        }


def chosen(deployment: Deployment, name: str | None) -> dict[str, DeadLetterQueue]:
    """That queue, or all of them. Raises InvalidRequest."""
    if name is None:
        return deployment.dead_letters
    if name not in deployment.dead_letters:
        names = ", ".join(deployment.dead_letters)
        raise InvalidRequest(f"There is no queue {name!r}.", f"Name one of: {names}.")
    return {name: deployment.dead_letters[name]}


def look(deployment: Deployment, name: str, queue: DeadLetterQueue) -> SetAside:
    sqs = deployment.client("sqs")
    wanted = ["ApproximateNumberOfMessages"]
    count = int(sqs.get_queue_attributes(QueueUrl=queue.url, AttributeNames=wanted)["Attributes"][wanted[0]])
    seen = _received(sqs, queue.url, hidden_seconds=0) if count else []
    return SetAside(name, count, min((_sent_at(message) for message in seen), default=None))


def replay(deployment: Deployment, queue: DeadLetterQueue) -> int:
    """How many messages went back. One that fails again comes back here, and is not taken a second time.

    A message is deleted here after it was sent there: what dies in between is handled twice, which does no harm.
    """
    sqs = deployment.client("sqs")
    begun = datetime.now(UTC)
    replayed = 0
    for message in _until_empty(sqs, queue.url):
        if _sent_at(message) > begun:
            continue
        if queue.source_url is not None:
            attributes = message.get("MessageAttributes", {})
            sqs.send_message(QueueUrl=queue.source_url, MessageBody=message["Body"], MessageAttributes=attributes)
        else:
            _invoke(deployment.client("lambda"), queue.function_name, message["Body"])
        sqs.delete_message(QueueUrl=queue.url, ReceiptHandle=message["ReceiptHandle"])
        replayed += 1
    return replayed


def _invoke(functions: Any, name: str | None, body: str) -> None:
    """With the event as EventBridge sent it, or as Lambda set it aside: within a record of the failure.

    https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html
    """
    event = json.loads(body)
    if "requestPayload" in event and "requestContext" in event:
        event = event["requestPayload"]
    answer = functions.invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps(event).encode())
    if answer["StatusCode"] != 202:
        raise InternalError(f"The function {name} did not take the event (HTTP {answer['StatusCode']}).")


def _until_empty(sqs: Any, url: str) -> Iterator[dict[str, Any]]:
    """Each message once."""
    known: set[str] = set()
    while messages := _received(sqs, url, HIDDEN_SECONDS):
        yield from (message for message in messages if message["MessageId"] not in known)
        known |= {message["MessageId"] for message in messages}


def _received(sqs: Any, url: str, hidden_seconds: int) -> list[dict[str, Any]]:
    answer = sqs.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=BATCH,
        VisibilityTimeout=hidden_seconds,
        MessageSystemAttributeNames=["SentTimestamp"],
        MessageAttributeNames=["All"],
        WaitTimeSeconds=1,  # asks every server of the queue
    )
    return list(answer.get("Messages", []))


def _sent_at(message: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(int(message["Attributes"]["SentTimestamp"]) / 1000, UTC)
