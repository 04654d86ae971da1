"""SageMaker, SageMaker Runtime and Application Auto Scaling behind MiniStack's front door, with IAM enforcement.

Wart: MiniStack has none of the three. Without the entries in SERVICE_PATTERNS the first call would load every botocore
model to find the service, which takes 4 to 10 s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ministack import app
from ministack.core import router
from ministack.core.concurrency import run_reentrant

from dreamdrop.local.plugins.authorization import (
    AccessDenied,
    authorize,
    sagemaker_requirements,
    sagemaker_resource_arn,
)
from dreamdrop.local.sagemaker import LocalSageMaker, SageMakerError

Answer = tuple[int, dict[str, str], bytes]

JSON_1_1 = "application/x-amz-json-1.1"


def install(engine: LocalSageMaker, region: str, account: str) -> None:
    app.SERVICE_HANDLERS["sagemaker"] = _SageMaker(engine, region, account).handle
    router.SERVICE_PATTERNS["sagemaker"] = {"credential_scope": "sagemaker", "target_prefixes": ["SageMaker."]}
    app.SERVICE_HANDLERS["application-autoscaling"] = _AutoScaling(engine, region).handle
    router.SERVICE_PATTERNS["application-autoscaling"] = {
        "credential_scope": "application-autoscaling",
        "target_prefixes": ["AnyScaleFrontendService."],
    }


class _SageMaker:
    def __init__(self, engine: LocalSageMaker, region: str, account: str) -> None:
        self._engine, self._region, self._account = engine, region, account

    async def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes, query: Any) -> Answer:
        headers = {name.lower(): value for name, value in headers.items()}
        runtime = path.startswith("/endpoints/")
        try:
            return await (self._runtime(path, headers, body) if runtime else self._control(headers, body))
        except AccessDenied as denied:
            return _error(403 if runtime else 400, "AccessDeniedException", denied.message)
        except SageMakerError as error:
            return _error(error.status, error.code, error.message)

    async def _control(self, headers: Mapping[str, str], body: bytes) -> Answer:
        operation = headers.get("x-amz-target", "").rpartition(".")[2]
        request = json.loads(body or b"{}")
        for action, arn, context in sagemaker_requirements(operation, request, self._region, self._account):
            authorize(headers, action, arn, self._region, context)
        return _reply(200, await run_reentrant(self._engine.call, operation, request))

    async def _runtime(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """/endpoints/<name>/invocations and /endpoints/<name>/async-invocations"""
        _, _, name, verb = path.split("/", 3)
        arn = sagemaker_resource_arn("Invoke", {"EndpointName": name}, self._region, self._account)
        if verb == "async-invocations":
            authorize(headers, "sagemaker:InvokeEndpointAsync", arn, self._region)
            queued = await run_reentrant(self._engine.invoke_async, name, dict(headers), body)
            locations = {
                "X-Amzn-SageMaker-OutputLocation": queued["OutputLocation"],
                "X-Amzn-SageMaker-FailureLocation": queued["FailureLocation"],
            }
            return _reply(202, {"InferenceId": queued["InferenceId"]}, locations)
        authorize(headers, "sagemaker:InvokeEndpoint", arn, self._region)
        sent = {"Content-Type": headers.get("content-type", "application/json")}
        if "accept" in headers:
            sent["Accept"] = headers["accept"]
        status, answered, data = await run_reentrant(self._engine.invoke, name, body, sent)
        lower = {key.lower(): value for key, value in answered.items()}
        return status, {"Content-Type": lower.get("content-type", "application/octet-stream")}, data


class _AutoScaling:
    def __init__(self, engine: LocalSageMaker, region: str) -> None:
        self._autoscaling, self._region = engine.autoscaling, region

    async def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes, query: Any) -> Answer:
        headers = {name.lower(): value for name, value in headers.items()}
        operation = headers.get("x-amz-target", "").rpartition(".")[2]
        try:
            # Scalable targets get an ARN of their own only once they exist: policies name them by '*'.
            authorize(headers, f"application-autoscaling:{operation}", "*", self._region)
            return _reply(200, await run_reentrant(self._autoscaling.call, operation, json.loads(body or b"{}")))
        except AccessDenied as denied:
            return _error(400, "AccessDeniedException", denied.message)
        except SageMakerError as error:
            return _error(error.status, error.code, error.message)


def _error(status: int, code: str, message: str) -> Answer:
    return _reply(status, {"__type": code, "message": message}, {"x-amzn-errortype": code})


def _reply(status: int, value: Any, headers: dict[str, str] | None = None) -> Answer:
    return status, {"Content-Type": JSON_1_1, **(headers or {})}, json.dumps(value).encode()
