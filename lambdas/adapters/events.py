"""What goes out to others: executions started, subject events published."""

from __future__ import annotations

import json

from botocore.exceptions import ClientError

from contracts.pipeline import DatasetTaken, SubjectEvent
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


def publish(topic_arn: str, event: SubjectEvent) -> None:
    client("sns").publish(
        TopicArn=topic_arn,
        Subject=f"Dreamdrop: {event.event}"[:100],
        Message=event.model_dump_json(),
        MessageAttributes={"event": {"DataType": "String", "StringValue": event.event}},
    )
