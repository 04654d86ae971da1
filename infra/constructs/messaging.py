"""Queues and topics as all of ours are: TLS only, encrypted queues, and a queue for what could not be handled."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from aws_cdk.aws_lambda_event_sources import SqsEventSource
from constructs import Construct

DELIVERIES = 5  # attempts before a message is set aside
VISIBILITY_FACTOR = 6  # of the function's timeout, as Lambda's guide asks: retries of throttled batches fit in
KEEP_FAILED_DAYS = 14


def topic(scope: Construct, id: str) -> sns.Topic:
    return sns.Topic(scope, id, enforce_ssl=True)


def dead_letter_queue(scope: Construct, id: str) -> sqs.Queue:
    return sqs.Queue(
        scope,
        id,
        encryption=sqs.QueueEncryption.SQS_MANAGED,
        enforce_ssl=True,
        retention_period=Duration.days(KEEP_FAILED_DAYS),
    )


def work_queue(
    scope: Construct,
    id: str,
    *,
    timeout_seconds: int,
    dead_letters: sqs.Queue,
    delay_seconds: int = 0,
) -> sqs.Queue:
    """`timeout_seconds`: of the function that is to `consume` it."""
    return sqs.Queue(
        scope,
        id,
        encryption=sqs.QueueEncryption.SQS_MANAGED,
        enforce_ssl=True,
        delivery_delay=Duration.seconds(delay_seconds),
        visibility_timeout=Duration.seconds(VISIBILITY_FACTOR * timeout_seconds),
        dead_letter_queue=sqs.DeadLetterQueue(queue=dead_letters, max_receive_count=DELIVERIES),
    )


def consume(queue: sqs.Queue, consumer: lambda_.Function, *, batch_size: int = 10) -> None:
    """The consumer handles the messages in batches, and names those that failed."""
    consumer.add_event_source(SqsEventSource(queue, batch_size=batch_size, report_batch_item_failures=True))
