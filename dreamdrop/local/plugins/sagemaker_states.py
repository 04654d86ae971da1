"""Step Functions integrations: `sagemaker:<operation>`, `sagemaker:createTrainingJob.sync`, `aws-sdk:sagemaker`.

Wart: MiniStack has none of them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from ministack.services import stepfunctions as sfn

from dreamdrop.local.plugins.authorization import AccessDenied, sagemaker_requirements
from dreamdrop.local.plugins.states_roles import Authorize, authorization
from dreamdrop.local.plugins.states_stopping import WaitingJobs
from dreamdrop.local.sagemaker import LocalSageMaker, SageMakerError

log = logging.getLogger(__name__)

_PLAIN = ("CreateModel", "CreateEndpointConfig", "CreateEndpoint", "UpdateEndpoint")
_FINAL = ("Completed", "Failed", "Stopped")
_LOOK_AGAIN_SECONDS = 5.0
_POLL_SECONDS = 0.02


def install(engine: LocalSageMaker, waiting: WaitingJobs, region: str, account: str) -> None:
    calls = _Calls(engine, region, account)
    for operation in _PLAIN:
        sfn._SERVICE_DISPATCH[_resource(operation)] = calls.plain(operation)
    sfn._SERVICE_DISPATCH[_resource("CreateTrainingJob")] = _training_job(calls, waiting)
    sfn._AWS_SDK_SERVICE_MAP["sagemaker"] = {"target_prefix": "SageMaker", "protocol": "json"}
    sfn._AWS_SDK_ERROR_PREFIX["sagemaker"] = "SageMaker"


def _resource(operation: str) -> str:
    return f"arn:aws:states:::sagemaker:{operation[0].lower()}{operation[1:]}"


class _Calls:
    """SageMaker's operations under the role of the machine."""

    def __init__(self, engine: LocalSageMaker, region: str, account: str) -> None:
        self._engine, self._region, self._account = engine, region, account

    def authorization(self) -> Authorize:
        return authorization(self._region)

    def call(self, operation: str, body: dict[str, Any], authorize: Authorize) -> dict[str, Any]:
        try:
            for required in sagemaker_requirements(operation, body, self._region, self._account):
                authorize(required)
            return dict(self._engine.call(operation, body))
        except AccessDenied as denied:
            raise sfn._ExecutionError("SageMaker.AmazonSageMakerException", denied.message) from denied
        except SageMakerError as error:
            suffix = "" if error.code.endswith(("Exception", "Error")) else "Exception"
            raise sfn._ExecutionError(f"SageMaker.{error.code}{suffix}", error.message) from error

    def await_change(self, training_job: str) -> None:
        self._engine.wait_for_training_job(training_job, _LOOK_AGAIN_SECONDS)
        time.sleep(_POLL_SECONDS)

    def plain(self, operation: str) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
        return lambda resource, body: self.call(operation, body, self.authorization())


def _training_job(calls: _Calls, waiting: WaitingJobs) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    def run(resource: str, body: dict[str, Any]) -> dict[str, Any]:
        authorize = calls.authorization()
        answer = calls.call("CreateTrainingJob", body, authorize)
        if not resource.endswith(".sync"):
            return answer
        name = {"TrainingJobName": body["TrainingJobName"]}

        def describe() -> dict[str, Any]:
            return calls.call("DescribeTrainingJob", name, authorize)

        def stop() -> None:
            try:
                if describe()["TrainingJobStatus"] == "InProgress":
                    calls.call("StopTrainingJob", name, authorize)
            except sfn._ExecutionError as error:  # as in AWS, the execution ends all the same and the job goes on
                log.warning("%s was not stopped: %s", name["TrainingJobName"], error.cause)

        waiting.add(stop)
        try:
            job = _wait(describe, lambda: calls.await_change(name["TrainingJobName"]))
        finally:
            waiting.discard(stop)
        if job["TrainingJobStatus"] != "Completed":
            raise sfn._ExecutionError("States.TaskFailed", json.dumps(job))
        return job

    return run


def _wait(describe: Callable[[], dict[str, Any]], pause: Callable[[], None]) -> dict[str, Any]:
    """-> the DescribeTrainingJob document as Step Functions gives it: times as whole milliseconds."""
    while True:
        job = describe()
        if job["TrainingJobStatus"] in _FINAL:
            return dict(_milliseconds(job))
        pause()


def _milliseconds(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _milliseconds(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_milliseconds(item, key) for item in value]
    if key.endswith("Time") and isinstance(value, int | float):
        return int(value * 1000)
    return value
