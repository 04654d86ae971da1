"""Step Functions integrations: `sagemaker:<operation>`, `sagemaker:createTrainingJob.sync`, `aws-sdk:sagemaker`.

Wart: MiniStack has none of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from ministack.services import stepfunctions as sfn

from dreamdrop.local.plugins.states_stopping import WaitingJobs
from dreamdrop.local.sagemaker import LocalSageMaker, SageMakerError

_PLAIN = ("CreateModel", "CreateEndpointConfig", "CreateEndpoint", "UpdateEndpoint")
_FINAL = ("Completed", "Failed", "Stopped")
_POLL_SECONDS = 0.2


def install(engine: LocalSageMaker, waiting: WaitingJobs) -> None:
    for operation in _PLAIN:
        sfn._SERVICE_DISPATCH[_resource(operation)] = _plain(engine, operation)
    sfn._SERVICE_DISPATCH[_resource("CreateTrainingJob")] = _training_job(engine, waiting)
    sfn._AWS_SDK_SERVICE_MAP["sagemaker"] = {"target_prefix": "SageMaker", "protocol": "json"}
    sfn._AWS_SDK_ERROR_PREFIX["sagemaker"] = "SageMaker"


def _resource(operation: str) -> str:
    return f"arn:aws:states:::sagemaker:{operation[0].lower()}{operation[1:]}"


def _call(engine: LocalSageMaker, operation: str, body: dict[str, Any]) -> dict[str, Any]:
    try:
        return dict(engine.call(operation, body))
    except SageMakerError as error:
        suffix = "" if error.code.endswith(("Exception", "Error")) else "Exception"
        raise sfn._ExecutionError(f"SageMaker.{error.code}{suffix}", error.message) from error


def _plain(engine: LocalSageMaker, operation: str) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    return lambda resource, body: _call(engine, operation, body)


def _training_job(engine: LocalSageMaker, waiting: WaitingJobs) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    def run(resource: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = _call(engine, "CreateTrainingJob", body)
        if not resource.endswith(".sync"):
            return answer
        name = {"TrainingJobName": body["TrainingJobName"]}

        def stop() -> None:
            if engine.call("DescribeTrainingJob", name)["TrainingJobStatus"] == "InProgress":
                engine.call("StopTrainingJob", name)

        waiting.add(stop)
        try:
            job = _wait(engine, name)
        finally:
            waiting.discard(stop)
        if job["TrainingJobStatus"] != "Completed":
            raise sfn._ExecutionError("States.TaskFailed", json.dumps(job))
        return job

    return run


def _wait(engine: LocalSageMaker, name: dict[str, str]) -> dict[str, Any]:
    """-> the DescribeTrainingJob document as Step Functions gives it: times as whole milliseconds."""
    while True:
        job = _call(engine, "DescribeTrainingJob", dict(name))
        if job["TrainingJobStatus"] in _FINAL:
            return dict(_milliseconds(job))
        time.sleep(_POLL_SECONDS)


def _milliseconds(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _milliseconds(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_milliseconds(item, key) for item in value]
    if key.endswith("Time") and isinstance(value, int | float):
        return int(value * 1000)
    return value
