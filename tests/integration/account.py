"""An AWS account in this process, by moto, and what the two stacks make in it: S3, DynamoDB, SNS, Step Functions and
SageMaker."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from PIL import Image

os.environ |= {"POWERTOOLS_SERVICE_NAME": "test", "POWERTOOLS_METRICS_NAMESPACE": "test"}  # read when imported

from contracts.artifact import BaseModelManifest
from contracts.storage import MANIFEST, base_model_prefix, dataset_prefix
from lambdas.adapters import clients
from tests.strict_requests import StrictRequests

strict_requests = StrictRequests()

REGION = "us-east-1"
BUCKET = "photos"
TABLE = "rows"
ACCOUNT = "123456789012"


@dataclass
class Account:
    """An AWS account with what the two stacks make in it."""

    s3: Any
    state_machine_arn: str
    topic_arn: str
    deletion_queue_url: str
    hosting_queue_url: str

    def put(self, key: str, content: bytes) -> None:
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=content)

    def get(self, key: str) -> bytes:
        content: bytes = self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def head(self, key: str) -> dict[str, Any]:
        described: dict[str, Any] = self.s3.head_object(Bucket=BUCKET, Key=key)
        return described

    def keys(self, prefix: str = "") -> list[str]:
        listed = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"] for item in listed.get("Contents", [])]

    def drop(self, subject: str, files: dict[str, bytes]) -> None:
        for path, content in files.items():
            self.put(dataset_prefix(subject) + path, content)

    def executions(self) -> list[dict[str, Any]]:
        listed = clients.client("stepfunctions").list_executions(stateMachineArn=self.state_machine_arn)
        executions: list[dict[str, Any]] = listed["executions"]
        return executions


@dataclass
class Context:
    """What a Lambda handler gets beside its event."""

    function_name: str = "test"
    memory_limit_in_mb: int = 128
    invoked_function_arn: str = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:test"
    aws_request_id: str = "request-1"
    remaining_ms: int = 900_000

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining_ms


def photo(colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (64, 64)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def furnish() -> Account:
    s3 = clients.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    clients.client("dynamodb").create_table(
        TableName=TABLE,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    )
    machine = clients.client("stepfunctions").create_state_machine(
        name="machine",
        roleArn=f"arn:aws:iam::{ACCOUNT}:role/machine",
        definition=json.dumps({"StartAt": "End", "States": {"End": {"Type": "Succeed"}}}),
    )
    topic = clients.client("sns").create_topic(Name="subjects")
    deletions, notices = (clients.client("sqs").create_queue(QueueName=name) for name in ("deletions", "notices"))
    base = BaseModelManifest(id="tiny", files=[], checksum="c" * 64, resolution=64, source="test", licence="test")
    made = Account(s3, machine["stateMachineArn"], topic["TopicArn"], deletions["QueueUrl"], notices["QueueUrl"])
    made.put(base_model_prefix("tiny") + MANIFEST, base.model_dump_json().encode())
    return made


def fail_once(monkeypatch: pytest.MonkeyPatch, operation: str, code: str, message: str, times: int = 1) -> None:
    """The next call of an operation of AWS, or the one that many times from now, is refused so."""
    call = BaseClient._make_api_call
    left = times

    def refuse(client: BaseClient, name: str, request: dict[str, Any]) -> Any:
        nonlocal left
        left -= name == operation
        if name == operation and left == 0:
            raise ClientError({"Error": {"Code": code, "Message": message}}, operation)
        return call(client, name, request)

    monkeypatch.setattr(BaseClient, "_make_api_call", refuse)


def variables(account: Account) -> dict[str, str]:
    return {
        "DATA_BUCKET": BUCKET,
        "TABLE_NAME": TABLE,
        "STATE_MACHINE_ARN": account.state_machine_arn,
        "SUBJECT_TOPIC_ARN": account.topic_arn,
        "DEFAULT_BASE_MODEL": "tiny",
        "RESOURCE_PREFIX": "dreamdrop",
        "TRAINING_IMAGE": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/training:1",
        "TRAINING_ROLE_ARN": f"arn:aws:iam::{ACCOUNT}:role/training",
        "TRAINING_INSTANCE_TYPES": "ml.g5.xlarge,ml.g4dn.xlarge",
        "TRAINING_CAPACITY": "on-demand",
        "TRAINING_WAIT_SECONDS": "3600",
        "TRAINING_KEEP_ALIVE_SECONDS": "600",
        "TRAINING_PAUSE_SECONDS": "30",
        "TRAINING_MAX_SECONDS": "10800",
        "TRAINING_BUDGET_DOLLARS": "5.0",
        "DAILY_BUDGET_DOLLARS": "20.0",
        "TRAINING_IS_BILLED": "True",
        "INFERENCE_IMAGE": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/inference:1",
        "INFERENCE_ROLE_ARN": f"arn:aws:iam::{ACCOUNT}:role/inference",
        "INFERENCE_INSTANCE_TYPE": "ml.g4dn.xlarge",
        "INFERENCE_MAX_INSTANCES": "1",
        "INFERENCE_SUCCESS_TOPIC_ARN": account.topic_arn,
        "INFERENCE_ERROR_TOPIC_ARN": account.topic_arn,
        "ALARM_TOPIC_ARN": account.topic_arn,
        "SLEEP_AFTER_CREATION": "True",
        "URL_LIFETIME_SECONDS": "3600",
        "DELETION_QUEUE_URL": account.deletion_queue_url,
        "HOSTING_QUEUE_URL": account.hosting_queue_url,
        "DEFAULT_HOSTING": "shared",
    }
