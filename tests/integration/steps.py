"""The steps of a run, one function after the other."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3

from contracts.artifact import Artifact, FileEntry, SampleCheck, TrainingSummary
from contracts.pipeline import Subject
from contracts.storage import dataset_prefix
from contracts.training import Hyperparameters
from lambdas.adapters.table import Subjects
from lambdas.hosting import host_model
from lambdas.intake import take_dataset
from lambdas.pipeline import check_dataset, judge_model, plan_training, publish_model
from tests.integration.account import BUCKET, TABLE, Account, Context, photo

INFO = b'{"instance_prompt": "a photo of sks dog", "hyperparameters": {"max_steps": 20, "resolution": 64}}'


def created(key: str, at: datetime | None = None) -> dict[str, Any]:
    """An SQS record with S3's "Object Created" event, as EventBridge delivers it."""
    event = {
        "version": "0", "id": "e-1", "detail-type": "Object Created", "source": "aws.s3", "account": "123456789012",
        "time": (at or datetime.now(UTC) + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ"), "region": "us-east-1",
        "resources": [f"arn:aws:s3:::{BUCKET}"],
        "detail": {
            "version": "0", "bucket": {"name": BUCKET},
            "object": {"key": key, "size": 5, "etag": "e", "sequencer": "1"},
            "request-id": "r", "requester": "123456789012", "source-ip-address": "127.0.0.1", "reason": "PutObject",
        },
    }  # fmt: skip
    return {
        "messageId": key, "receiptHandle": "h", "body": json.dumps(event), "attributes": {}, "messageAttributes": {},
        "md5OfBody": "", "eventSource": "aws:sqs", "eventSourceARN": "arn:aws:sqs:us-east-1:1:q", "awsRegion": "r",
    }  # fmt: skip


def take(context: Context, *keys: str, at: datetime | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = take_dataset.handler({"Records": [created(key, at) for key in keys]}, context)
    return answer


def taken(
    account: Account, context: Context, subject: str = "dog", files: dict[str, bytes] | None = None
) -> dict[str, Any]:
    account.drop(
        subject, files or {"a.png": photo(), "b.jpg": photo("blue", "JPEG"), "dataset_info.json": INFO, "x.txt": b"x"}
    )
    assert take(context, dataset_prefix(subject) + "a.png") == {"batchItemFailures": []}
    newest = Subjects(TABLE).newest_run_id(subject)
    [arn] = [execution["executionArn"] for execution in account.executions() if execution["name"] == newest]
    payload: dict[str, Any] = json.loads(boto3.client("stepfunctions").describe_execution(executionArn=arn)["input"])
    assert payload["run_id"] == newest
    return payload


def subject_of(subjects: Subjects, name: str = "dog") -> Subject:
    found = subjects.one(name)
    assert found is not None
    return found


# ---- PlanTraining to TellReady


def plan(account: Account, context: Context) -> dict[str, Any]:
    planned: dict[str, Any] = plan_training.handler(check_dataset.handler(taken(account, context), context), context)
    return planned


def trained(account: Account, context: Context, **summary: Any) -> dict[str, Any]:
    """What Train hands on, with a model in the bucket as SageMaker would have left it."""
    planned = plan(account, context)
    output = f"{planned['training_job']['OutputDataConfig']['S3OutputPath']}/{planned['job_name']}/output/model"
    leave_model(account, output, "c", **summary)
    return planned | {"artifact_uri": output, "billable_seconds": 60}


def leave_model(account: Account, output: str, base_model_checksum: str, **summary: Any) -> None:
    prefix = output.removeprefix(f"s3://{BUCKET}/") + "/"
    account.put(prefix + "pytorch_lora_weights.safetensors", b"weights")
    values = {
        "steps": 20, "seconds": 1.0, "first_loss": 1.0, "last_loss": 0.5, "held_out_before": 1.0,
        "held_out_after": 0.6, "samples": [SampleCheck(path="samples/0.png", finite=True, contrast=0.3)], **summary,
    }  # fmt: skip
    artifact = Artifact(
        method="lora", base_model="tiny", base_model_checksum=base_model_checksum,
        instance_prompt="a photo of sks dog", class_prompt=None, resolution=64, hyperparameters=Hyperparameters(),
        training=TrainingSummary(**values), versions={},
        files=[FileEntry(path="pytorch_lora_weights.safetensors", size=7, sha256="0" * 64)],
    )  # fmt: skip
    account.put(prefix + "artifact.json", artifact.model_dump_json().encode())


def published(account: Account, context: Context) -> dict[str, Any]:
    judged = judge_model.handler(trained(account, context), context)
    done: dict[str, Any] = publish_model.handler(judged, context)
    return done


def hosted(published_: dict[str, Any], context: Context) -> dict[str, Any]:
    """The loop of the state machine around HostModel."""
    payload: dict[str, Any] = host_model.handler(published_, context)
    while payload["endpoint_status"] != "InService":
        payload = host_model.handler(payload, context)
    return payload


def ended(status: str, payload: dict[str, Any], **more: str) -> dict[str, Any]:
    detail = {"status": status, "input": json.dumps(payload), "name": payload["run_id"], **more}
    return {
        "version": "0", "id": "1", "source": "aws.states", "account": "1", "time": "2026-01-01T00:00:00Z",
        "region": "us-east-1", "resources": [], "detail-type": "Step Functions Execution Status Change",
        "detail": detail,
    }  # fmt: skip
