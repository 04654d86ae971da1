"""What goes out to others: executions started and stopped, deletions put in line, subject events published."""

from __future__ import annotations

import json

from botocore.exceptions import ClientError
from pydantic import BaseModel

from contracts.pipeline import DatasetTaken, DeletionRequested, EndpointNotice, SubjectEvent
from lambdas.adapters.clients import client, error_code


def start_execution(state_machine_arn: str, taken: DatasetTaken) -> None:
    """Safe to repeat: the run names the execution, and a name is used once (for 90 days)."""
    try:
        client("stepfunctions").start_execution(
            stateMachineArn=state_machine_arn, name=taken.run_id, input=json.dumps(taken.plain())
        )
    except ClientError as error:
        if error_code(error) != "ExecutionAlreadyExists":
            raise


def running_executions(state_machine_arn: str) -> list[str]:
    """The ids of their runs."""
    pages = client("stepfunctions").get_paginator("list_executions")
    running = pages.paginate(stateMachineArn=state_machine_arn, statusFilter="RUNNING")
    return [execution["name"] for page in running for execution in page["executions"]]


def stop_execution(state_machine_arn: str, run_id: str, cause: str) -> None:
    """If it is running; its training job is stopped with it. The ARN is ours, so invalid means that it has ended."""
    execution = f"{state_machine_arn.replace(':stateMachine:', ':execution:')}:{run_id}"
    try:
        client("stepfunctions").stop_execution(executionArn=execution, cause=cause)
    except ClientError as error:
        if error_code(error) not in ("ExecutionDoesNotExist", "ValidationException"):
            raise


def ask_for_deletion(queue_url: str, requested: DeletionRequested, delay_seconds: int = 0) -> None:
    _send(queue_url, requested, delay_seconds)


def look_at_endpoint(queue_url: str, notice: EndpointNotice, delay_seconds: int = 0) -> None:
    _send(queue_url, notice, delay_seconds)


def come_back(queue_url: str, receipt_handle: str, seconds: int) -> None:
    """A message that could not be handled is delivered again then, and not after the whole time of its invisibility."""
    client("sqs").change_message_visibility(QueueUrl=queue_url, ReceiptHandle=receipt_handle, VisibilityTimeout=seconds)


def _send(queue_url: str, message: BaseModel, delay_seconds: int) -> None:
    client("sqs").send_message(QueueUrl=queue_url, MessageBody=message.model_dump_json(), DelaySeconds=delay_seconds)


def publish(topic_arn: str, event: SubjectEvent) -> None:
    client("sns").publish(
        TopicArn=topic_arn,
        Subject=f"Dreamdrop: {event.event}"[:100],
        Message=event.model_dump_json(),
        MessageAttributes={"event": {"DataType": "String", "StringValue": event.event}},
    )
