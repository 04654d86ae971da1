"""One asynchronous request from its input object to its output or failure object and the notification."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from typing import Any

from dreamdrop.local.sagemaker.async_queue import AsyncRequest
from dreamdrop.local.sagemaker.errors import EngineStopped
from dreamdrop.local.sagemaker.platform import Platform
from dreamdrop.local.sagemaker.s3 import TRANSFER_ERRORS, parse_location
from dreamdrop.local.sagemaker.serving import Answer, NoAnswer, ServingInstance
from dreamdrop.local.sagemaker.store import Record

logger = logging.getLogger(__name__)

EXPIRED = "The request expired before it was processed (RequestTTLSeconds)."
_MESSAGE_LIMIT = 2_000
_DEFAULT_CONTENT_TYPE = "application/octet-stream"


class RequestFailed(Exception):
    """The message is the failureReason."""


class AsyncDelivery:
    """`deployment` names the output configuration and the role that reads, writes and publishes."""

    def __init__(self, platform: Platform, deployment: Record) -> None:
        self._platform = platform
        self._role: str = deployment["Model"]["ExecutionRoleArn"]
        output = deployment["Config"].get("AsyncInferenceConfig", {}).get("OutputConfig", {})
        self._topics: dict[str, str] = output.get("NotificationConfig", {})

    def serve(self, request: AsyncRequest, instance: ServingInstance) -> None:
        """Raises NotAccepted when another instance may try, EngineStopped when the engine goes away meanwhile."""
        try:
            answer = self._ask(request, instance)
            self._store_output(request, answer)
        except RequestFailed as error:
            self.fail(request, str(error))
            return
        content_type = answer.headers.get("content-type", _DEFAULT_CONTENT_TYPE)
        message = self._message(request, "Completed")
        message["responseParameters"] = {"contentType": content_type, "outputLocation": request.output_location}
        self._notify("SuccessTopic", message)

    def fail(self, request: AsyncRequest, reason: str) -> None:
        """Writes the failure object and tells the error topic."""
        if self._platform.closing.is_set():
            raise EngineStopped
        location = parse_location(request.failure_location)
        try:
            self._client("s3").put_object(
                Bucket=location.bucket,
                Key=location.key,
                Body=json.dumps({"message": reason}).encode(),
                ContentType="application/json",
            )
        except TRANSFER_ERRORS:
            logger.exception("The failure object %s was not written.", request.failure_location)
        message = self._message(request, "Failed")
        message["failureReason"] = reason
        message["responseParameters"] = {"failureLocation": request.failure_location}
        self._notify("ErrorTopic", message)

    def _ask(self, request: AsyncRequest, instance: ServingInstance) -> Answer:
        body = self._input(request)
        try:
            answer = instance.invoke(body, request.headers, request.timeout_seconds)
        except NoAnswer as error:
            raise RequestFailed(str(error)) from error
        if not 200 <= answer.status < 300:
            raise RequestFailed(model_error(answer))
        return answer

    def _input(self, request: AsyncRequest) -> bytes:
        if request.input_location is None:
            return request.body
        location = parse_location(request.input_location)
        try:
            body: bytes = self._client("s3").get_object(Bucket=location.bucket, Key=location.key)["Body"].read()
        except TRANSFER_ERRORS as error:
            raise RequestFailed(f"Unable to download the input object {request.input_location}: {error}") from error
        return body

    def _store_output(self, request: AsyncRequest, answer: Answer) -> None:
        location = parse_location(request.output_location)
        content_type = answer.headers.get("content-type", _DEFAULT_CONTENT_TYPE)
        try:
            self._client("s3").put_object(
                Bucket=location.bucket, Key=location.key, Body=answer.body, ContentType=content_type
            )
        except TRANSFER_ERRORS as error:
            raise RequestFailed(f"Unable to upload the response to {request.output_location}: {error}") from error

    def _message(self, request: AsyncRequest, status: str) -> dict[str, Any]:
        parameters = {
            "accept": request.headers.get("Accept"),
            "contentType": request.headers["Content-Type"],
            "customAttributes": request.headers.get("X-Amzn-SageMaker-Custom-Attributes"),
            "endpointName": request.endpoint,
            "inputLocation": request.input_location,
        }
        return {
            "awsRegion": self._platform.region,
            "eventVersion": "1.0",
            "eventSource": "aws:sagemaker",
            "eventName": "InferenceResult",
            "receivedTime": _iso(request.received),
            "eventTime": _iso(time.time()),
            "invocationStatus": status,
            "inferenceId": request.inference_id,
            "requestParameters": {name: value for name, value in parameters.items() if value is not None},
        }

    def _notify(self, topic: str, message: dict[str, Any]) -> None:
        if topic not in self._topics:
            return
        try:
            self._client("sns").publish(TopicArn=self._topics[topic], Message=json.dumps(message))
        except TRANSFER_ERRORS:
            logger.exception("The notification of %s to %s failed.", message["inferenceId"], self._topics[topic])

    def _client(self, service: str) -> Any:
        return self._platform.roles.client(self._role, service)


def model_error(answer: Answer) -> str:
    side = "client" if answer.status < 500 else "server"
    text = answer.body[:_MESSAGE_LIMIT].decode(errors="replace")
    return f'Received {side} error ({answer.status}) from model with message "{text}".'


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
