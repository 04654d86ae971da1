"""Queues and topics as all of ours are: TLS only, encrypted, and a queue for what could not be handled.

The library is not told of the key: it would allow whole families of actions on it. infra/grants.py does.
"""

from __future__ import annotations

from typing import cast

from aws_cdk import Duration
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.grants import receive

DELIVERIES = 5  # attempts before a message is set aside
VISIBILITY_FACTOR = 6  # of the function's timeout, as Lambda's guide asks: retries of throttled batches fit in
KEEP_FAILED_DAYS = 14


def topic(scope: Construct, id: str, *, key: kms.IKey | None) -> sns.Topic:
    made = sns.Topic(scope, id, enforce_ssl=True)
    if key:
        cast(sns.CfnTopic, made.node.default_child).kms_master_key_id = key.key_arn
    return made


def dead_letter_queue(scope: Construct, id: str, *, key: kms.IKey | None) -> sqs.Queue:
    queue = sqs.Queue(scope, id, enforce_ssl=True, retention_period=Duration.days(KEEP_FAILED_DAYS))
    _encrypt(queue, key)
    return queue


def work_queue(
    scope: Construct,
    id: str,
    *,
    timeout_seconds: int,
    dead_letters: sqs.Queue,
    key: kms.IKey | None,
    delay_seconds: int = 0,
) -> sqs.Queue:
    """`timeout_seconds`: of the function that is to `consume` it."""
    queue = sqs.Queue(
        scope,
        id,
        enforce_ssl=True,
        delivery_delay=Duration.seconds(delay_seconds),
        visibility_timeout=Duration.seconds(VISIBILITY_FACTOR * timeout_seconds),
        dead_letter_queue=sqs.DeadLetterQueue(queue=dead_letters, max_receive_count=DELIVERIES),
    )
    _encrypt(queue, key)
    return queue


def consume(queue: sqs.Queue, consumer: lambda_.Function, *, key: kms.IKey | None, batch_size: int = 10) -> None:
    """The consumer handles the messages in batches, and names those that failed."""
    lambda_.EventSourceMapping(
        consumer,
        "Messages",
        target=consumer,
        event_source_arn=queue.queue_arn,
        batch_size=batch_size,
        report_batch_item_failures=True,
    )
    receive(queue, key, consumer)


def _encrypt(queue: sqs.Queue, key: kms.IKey | None) -> None:
    resource = cast(sqs.CfnQueue, queue.node.default_child)
    resource.sqs_managed_sse_enabled = None if key else True
    resource.kms_master_key_id = key.key_arn if key else None
