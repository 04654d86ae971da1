"""lambdas/domain/recovery.py: what failed, and whether another attempt is worth its money."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contracts import errors
from contracts.pipeline import CaughtError, FailedState
from lambdas.domain.recovery import classify, recover


def lambda_error(error: errors.DreamdropError) -> CaughtError:
    cause = {"errorMessage": str(error), "errorType": type(error).__name__, "stackTrace": []}
    return CaughtError(Error=type(error).__name__, Cause=json.dumps(cause))


def job_error(reason: str, **more: str) -> CaughtError:
    job = {"TrainingJobName": "j", "TrainingJobStatus": "Failed", "FailureReason": reason, **more}
    return CaughtError(Error="States.TaskFailed", Cause=json.dumps(job))


@pytest.mark.parametrize(
    ("caught", "expected"),
    [
        (lambda_error(errors.EmptyDataset("none")), errors.EmptyDataset),
        (lambda_error(errors.ModelRejected("blank")), errors.ModelRejected),
        (
            CaughtError(Error="KeyError", Cause='{"errorMessage": "\'x\'", "errorType": "KeyError"}'),
            errors.InternalError,
        ),
        (CaughtError(Error="Lambda.Unknown", Cause="gone"), errors.InternalError),
        (CaughtError(Error="States.Timeout"), errors.Interrupted),
        (CaughtError(Error="SageMaker.ResourceLimitExceededException", Cause="quota"), errors.NoCapacity),
        (job_error("CapacityError: Unable to provision requested ML compute capacity."), errors.NoCapacity),
        (job_error(f"AlgorithmError: {errors.OutOfMemory('12 GiB')}, exit code: 1"), errors.OutOfMemory),
        (job_error(f"AlgorithmError: {errors.UnreadableImage('a.png')}, exit code: 1"), errors.UnreadableImage),
        (job_error("AlgorithmError: , exit code: 137"), errors.TrainingKilled),
        (job_error("AlgorithmError: Segmentation fault, exit code: 139"), errors.TrainingCrashed),
        (job_error("", TrainingJobStatus="Stopped", SecondaryStatus="MaxRuntimeExceeded"), errors.TrainingTimedOut),
        (job_error("", TrainingJobStatus="Stopped", SecondaryStatus="Stopped"), errors.TrainingStopped),
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


def failed(error: CaughtError, **more: Any) -> FailedState:
    return FailedState(
        subject="dog", dataset_id="0" * 12, run_id="dog-1", error=error, **{"training_job": {"a": 1}, **more}
    )


def test_no_capacity_tries_the_next_rung_until_the_ladder_ends() -> None:
    error = job_error("CapacityError: none")
    first = recover(failed(error), rungs=2)
    assert (first.retry, first.attempt, first.ladder_rung, first.memory_tier) == (True, 2, 1, 0)
    last = recover(failed(error, attempt=2, ladder_rung=1), rungs=2)
    assert not last.retry
    assert last.failure is not None
    assert last.failure.code == "no_capacity"


def test_out_of_memory_tries_one_memory_tier_lower() -> None:
    error = job_error(f"AlgorithmError: {errors.OutOfMemory('full')}, exit code: 1")
    first = recover(failed(error), rungs=1)
    assert (first.retry, first.memory_tier, first.ladder_rung) == (True, 1, 0)
    assert not recover(failed(error, attempt=4, memory_tier=4), rungs=1).retry


def test_a_killed_training_is_tried_once_more() -> None:
    error = job_error("AlgorithmError: , exit code: 137")
    assert recover(failed(error), rungs=1).retry
    assert not recover(failed(error, attempt=2), rungs=1).retry


@pytest.mark.parametrize(
    "error", [lambda_error(errors.EmptyDataset("none")), job_error("AlgorithmError: boom, exit code: 1")]
)
def test_what_cannot_succeed_is_not_tried_again(error: CaughtError) -> None:
    assert not recover(failed(error), rungs=4).retry


def test_a_failure_after_the_training_does_not_train_again() -> None:
    error = lambda_error(errors.OutOfMemory("odd"))
    assert not recover(failed(error, artifact_uri="s3://b/k"), rungs=4).retry
