"""The API, what it finds in the account, and an endpoint that is recorded, not run."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from botocore.exceptions import ClientError

from contracts.artifact import Artifact, TrainingSummary, VersionManifest
from contracts.generation import InferenceAnswer, InferencePayload, InferenceTimings
from contracts.pipeline import DatasetTaken
from contracts.storage import version_manifest_key, version_prefix
from contracts.training import Hosting, Hyperparameters
from lambdas.adapters.table import Subjects
from lambdas.api import app, record_generation
from tests.integration.account import BUCKET, TABLE, Account, Context, photo

VERSION = "0123456789ab-1"
OLDER = "ba9876543210-1"
ASK = {"subject": "dog", "prompt": "a photo of sks dog on the moon", "seed": 7, "num_images_per_prompt": 2}
ARTIST = "arn:aws:iam::123456789012:user/artist"


class Endpoint:
    """Stands where SageMaker's endpoint stands: remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str]] = []
        self.accepted: list[str] = []
        self.woken: list[str] = []
        self.refuses: str | None = None
        self.status: str | None = "InService"

    def describe(self, endpoint_name: str) -> dict[str, str] | None:
        return {"EndpointName": endpoint_name, "EndpointStatus": self.status} if self.status else None

    def submit(self, endpoint_name: str, generation_id: str, body: str, accept: str) -> None:
        if self.refuses:
            raise ClientError({"Error": {"Code": self.refuses, "Message": "no"}}, "InvokeEndpointAsync")
        self.requests.append((endpoint_name, generation_id, body))
        self.accepted.append(accept)

    def payload(self) -> InferencePayload:
        """Of the only request."""
        [(_, _, body)] = self.requests
        return InferencePayload.model_validate_json(body)

    def wake(self, endpoint_name: str) -> bool:
        self.woken.append(endpoint_name)
        return True


def host(subject: str, version: str = VERSION, base_model: str = "tiny", hosting: Hosting = "shared") -> None:
    subjects = Subjects(TABLE)
    dataset = version.partition("-")[0]
    run = DatasetTaken(subject=subject, dataset_id=dataset, run_id=f"{subject}-{dataset}")
    subjects.take(run, datetime.now(UTC))
    subjects.enter(run, "training", version=version)
    endpoint_name = f"dreamdrop-{base_model}" if hosting == "shared" else f"dreamdrop--{subject}"
    subjects.promote(run, version, endpoint_name, base_model, f"a photo of sks {subject}", hosting)


def publish(account: Account, subject: str, version: str, base_model: str = "tiny") -> None:
    summary = TrainingSummary(
        steps=1, seconds=1, first_loss=1, last_loss=1, held_out_before=1, held_out_after=1, samples=[]
    )
    artifact = Artifact(
        method="lora", base_model=base_model, base_model_checksum="c", instance_prompt="p", class_prompt=None,
        resolution=64, hyperparameters=Hyperparameters(), training=summary, versions={}, files=[],
    )  # fmt: skip
    manifest = VersionManifest(
        subject=subject, version=version, prefix=version_prefix(subject, version), dataset_id=version.partition("-")[0],
        training_job="j", published_at=datetime.now(UTC), artifact=artifact,
    )  # fmt: skip
    account.put(version_manifest_key(subject, version), manifest.model_dump_json().encode())


class Api:
    def __init__(self, context: Context) -> None:
        self.context = context

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        owner: str | None = ARTIST,
        claims: dict[str, str] | None = None,
        query: str = "",
        **headers: str,
    ) -> tuple[int, Any]:
        """As the authorizer passes it on: of a signed request, or with the claims of a token."""
        authorizer = {"authorizer": {"iam": {"userArn": owner}}} if owner else {}
        if claims is not None:
            authorizer = {"authorizer": {"jwt": {"claims": claims, "scopes": None}}}
        event = {
            "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": query, "headers": headers,
            "queryStringParameters": dict(parse_qsl(query)),
            "requestContext": {"http": {"method": method, "path": path}, "requestId": "r-1", "stage": "$default",
                               "domainName": "api.example", **authorizer},
        }  # fmt: skip
        if isinstance(body, bytes):  # of a content type that API Gateway does not know as text
            event |= {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}
        elif body is not None:
            event |= {"body": body if isinstance(body, str) else json.dumps(body), "isBase64Encoded": False}
        answer = app.handler(event, self.context)
        content = answer["body"]
        return answer["statusCode"], json.loads(content) if content.startswith("{") else content

    def draw(self, body: Any, **more: Any) -> tuple[int, Any]:
        return self.call("POST", "/v1/generations", body, **more)


def notice(generation_id: str, **more: Any) -> dict[str, Any]:
    message = {
        "awsRegion": "us-east-1", "eventName": "InferenceResult", "eventSource": "aws:sagemaker", "eventVersion": "1.0",
        "receivedTime": "2026-01-01T00:00:00.000Z", "eventTime": "2026-01-01T00:00:05.000Z",
        "inferenceId": generation_id, "invocationStatus": "Completed",
        "requestParameters": {"endpointName": "dreamdrop-tiny"}, **more,
    }  # fmt: skip
    return {
        "messageId": "m-1", "receiptHandle": "h", "body": json.dumps(message), "attributes": {},
        "messageAttributes": {}, "md5OfBody": "", "eventSource": "aws:sqs", "eventSourceARN": "a", "awsRegion": "r",
    }  # fmt: skip


def finish(account: Account, context: Context, generation_id: str, seeds: list[int], **more: Any) -> None:
    images = [base64.b64encode(photo()).decode() for _ in seeds]
    answer = InferenceAnswer(
        generated_images=images,
        prompt="p",
        seeds=seeds,
        timings=InferenceTimings(load_ms=1000, compute_ms=2500),
        **more,
    )
    account.put("inference/output/x.out", answer.model_dump_json().encode())
    location = {"responseParameters": {"outputLocation": f"s3://{BUCKET}/inference/output/x.out"}}
    assert record_generation.handler({"Records": [notice(generation_id, **location)]}, context) == {
        "batchItemFailures": []
    }
