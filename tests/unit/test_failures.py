"""lambdas/domain/failures.py: failures as AWS, our functions and the container word them, and the class of each."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contracts import errors
from contracts.pipeline import CaughtError
from lambdas.domain.failures import classify, quota_in

STARTED = 1_790_000_000_000  # milliseconds, as Step Functions gives times


def lambda_error(error: errors.DreamdropError) -> CaughtError:
    cause = {"errorMessage": str(error), "errorType": type(error).__name__, "stackTrace": []}
    return CaughtError(Error=type(error).__name__, Cause=json.dumps(cause))


def job_error(reason: str = "", **more: Any) -> CaughtError:
    job = {"TrainingJobName": "j", "TrainingJobStatus": "Failed", "FailureReason": reason, **more}
    return CaughtError(Error="States.TaskFailed", Cause=json.dumps(job))


def stopped(secondary: str = "Stopped", **more: Any) -> CaughtError:
    return job_error(TrainingJobStatus="Stopped", SecondaryStatus=secondary, **more)


def refusal(code: str, message: str) -> CaughtError:
    """As Step Functions' integration words an error of CreateTrainingJob."""
    told = f"{message} (Service: AmazonSageMaker; Status Code: 400; Error Code: {code}; Request ID: 1f2e; Proxy: null)"
    return CaughtError(Error=f"SageMaker.{code}Exception", Cause=told)


def quota_refusal(name: str, limit: int, used: int = 0) -> CaughtError:
    return refusal(
        "ResourceLimitExceeded",
        f"The account-level service limit '{name}' is {limit} Instances, with current utilization of {used} Instances "
        "and a request delta of 1 Instances. Please use AWS Service Quotas to request an increase for this quota.",
    )


def pended(seconds: int, **more: Any) -> CaughtError:
    times = {"CreationTime": STARTED, "TrainingEndTime": STARTED + seconds * 1000}
    return stopped(StoppingCondition={"MaxRuntimeInSeconds": 60, "MaxPendingTimeInSeconds": 1800}, **times, **more)


@pytest.mark.parametrize(
    ("caught", "expected"),
    [
        # the caller's data
        (lambda_error(errors.EmptyDataset("none")), errors.EmptyDataset),
        (job_error(f"AlgorithmError: {errors.UnreadableImage('a.png')}, exit code: 1"), errors.UnreadableImage),
        (lambda_error(errors.ModelRejected("blank")), errors.ModelRejected),
        # out of memory
        (job_error(f"AlgorithmError: {errors.OutOfMemory('12 GiB')}, exit code: 1"), errors.OutOfMemory),
        (
            job_error(
                "AlgorithmError: ExecuteUserScriptError: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate "
                "2.00 GiB. GPU 0 has a total capacity of 14.58 GiB of which 1.24 GiB is free., exit code: 1"
            ),
            errors.OutOfMemory,
        ),
        # killed
        (job_error("AlgorithmError: , exit code: 137"), errors.TrainingKilled),
        (
            job_error(
                "ClientError: Please use an instance type with more memory, or reduce the size of training data "
                "processed on an instance."
            ),
            errors.TrainingKilled,
        ),
        # no capacity
        (
            job_error(
                "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML "
                "instance type."
            ),
            errors.NoCapacity,
        ),
        (pended(1800), errors.NoCapacity),
        # quota
        (quota_refusal("ml.g5.xlarge for training job usage", 0), errors.QuotaExceeded),
        (quota_refusal("ml.g5.xlarge for training job usage", 1, used=1), errors.QuotaExceeded),
        (CaughtError(Error="SageMaker.ResourceLimitExceededException", Cause="quota"), errors.QuotaExceeded),
        (job_error("ResourceLimitExceeded: The account-level service limit is reached."), errors.QuotaExceeded),
        # spot
        (stopped("MaxWaitTimeExceeded"), errors.SpotReclaimed),
        (stopped("Interrupted"), errors.SpotReclaimed),
        (job_error("", SecondaryStatus="Interrupted"), errors.SpotReclaimed),
        # limits, and hands from outside
        (stopped("MaxRuntimeExceeded"), errors.TrainingTimedOut),
        (stopped(), errors.TrainingStopped),
        (pended(60), errors.TrainingStopped),
        (pended(1900, TrainingStartTime=STARTED + 5000), errors.TrainingStopped),
        # SageMaker
        (job_error("InternalServerError: We encountered an internal error. Please try again."), errors.SageMakerFailed),
        (refusal("InternalFailure", "The request processing has failed."), errors.SageMakerFailed),
        (refusal("ServiceUnavailable", "The service is away."), errors.SageMakerFailed),
        (
            CaughtError(
                Error="SageMaker.AmazonSageMakerException",
                Cause="null (Service: AmazonSageMaker; Status Code: 502; Error Code: null; Request ID: null)",
            ),
            errors.SageMakerFailed,
        ),
        (
            CaughtError(Error="SageMaker.SdkClientException", Cause="Unable to execute HTTP request: Read timed out"),
            errors.SageMakerFailed,
        ),
        (refusal("ResourceInUse", "Training job names must be unique within an AWS account."), errors.SageMakerFailed),
        # ours
        (job_error("AlgorithmError: Segmentation fault, exit code: 139"), errors.TrainingCrashed),
        (
            job_error("AlgorithmError: RuntimeError: InternalServerError from the hub, exit code: 1"),
            errors.TrainingCrashed,
        ),
        (
            job_error(
                "ClientError: Cannot pull algorithm container. Either the image does not exist or its permissions "
                "are incorrect."
            ),
            errors.TrainingCrashed,
        ),
        (job_error(), errors.TrainingCrashed),
        (refusal("ValidationException", "RoleArn: Cross-account pass role is not allowed."), errors.InternalError),
        (
            CaughtError(Error="KeyError", Cause='{"errorMessage": "\'x\'", "errorType": "KeyError"}'),
            errors.InternalError,
        ),
        (CaughtError(Error="Lambda.Unknown", Cause="gone"), errors.InternalError),
        (CaughtError(Error="States.Timeout"), errors.Interrupted),
    ],
)
def test_every_failure_finds_its_class(caught: CaughtError, expected: type[errors.DreamdropError]) -> None:
    error = classify(caught)
    assert type(error) is expected
    assert error.cause
    assert error.cure


def test_the_exit_code_does_not_end_up_in_the_cure() -> None:
    error = classify(job_error(f"AlgorithmError: {errors.OutOfMemory('12 GiB')}, exit code: 1"))
    assert error.report == errors.OutOfMemory("12 GiB").report


def test_the_quota_is_named() -> None:
    caught = quota_refusal("ml.g5.xlarge for spot training job usage", 8, used=8)
    assert quota_in(caught.Cause) == ("ml.g5.xlarge for spot training job usage", 8)
    assert "ml.g5.xlarge for spot training job usage" in classify(caught).cause
