"""lambdas/domain/recovery.py: whether another attempt is worth its money, and what it does differently."""

from __future__ import annotations

from typing import Any

import pytest

from contracts import errors
from contracts.pipeline import CaughtError, FailedState, Recovery, TrainingCapacity
from contracts.training import HIGHEST_MEMORY_TIER
from lambdas.domain.recovery import MAX_ATTEMPTS, MAX_LADDERS, recover
from tests.unit.test_failures import job_error, lambda_error, quota_refusal, stopped

LADDER = ("ml.g5.xlarge", "ml.g4dn.xlarge")
FULL = job_error("CapacityError: Unable to provision requested ML compute capacity.")
OUT_OF_MEMORY = job_error(f"AlgorithmError: {errors.OutOfMemory('full')}, exit code: 1")
KILLED = job_error("AlgorithmError: , exit code: 137")
RECLAIMED = stopped("MaxWaitTimeExceeded")
BROKEN = job_error("InternalServerError: We encountered an internal error. Please try again.")


def failed(error: CaughtError, **more: Any) -> FailedState:
    return FailedState(
        subject="dog", dataset_id="0" * 12, run_id="dog-1", error=error, **{"training_job": {"a": 1}, **more}
    )


def run_of(errors_in_turn: list[CaughtError], capacity: TrainingCapacity = "on-demand") -> list[Recovery]:
    """What is decided after each failure of one run, up to its end."""
    decisions: list[Recovery] = []
    state: dict[str, Any] = {}
    for error in errors_in_turn:
        decisions.append(recover(failed(error, **state), LADDER, capacity=capacity, pause_seconds=30))
        if not decisions[-1].retry:
            break
        state = decisions[-1].model_dump(exclude={"retry", "wait_seconds", "failure"})
    return decisions


def code_of(decision: Recovery) -> str:
    assert decision.failure is not None
    return decision.failure.code


def no_quota(kind: str, rung: int = 0) -> CaughtError:
    return quota_refusal(f"{LADDER[rung]} for {kind} usage", 0)


def test_no_capacity_climbs_the_ladder_and_begins_it_again_after_a_longer_and_longer_wait() -> None:
    decisions = run_of([FULL] * 20)
    assert [one.ladder_rung for one in decisions[:-1]] == [1, 0, 1, 0, 1]
    assert [one.ladder for one in decisions[:-1]] == [0, 1, 1, 2, 2]
    assert [one.wait_seconds for one in decisions[:-1]] == [30, 900, 30, 1800, 30]
    assert [one.attempt for one in decisions[:-1]] == [2, 3, 4, 5, 6]
    assert len(decisions) == MAX_LADDERS * len(LADDER)
    assert code_of(decisions[-1]) == "no_capacity"


def in_use(rung: int) -> CaughtError:
    return quota_refusal(f"{LADDER[rung]} for training job usage", 1, used=1)


def test_a_quota_in_use_is_waited_for_as_long_as_attempts_have_numbers() -> None:
    decisions = run_of([in_use(0), in_use(1)] * MAX_ATTEMPTS)
    assert len(decisions) == MAX_ATTEMPTS == 99
    assert {(one.ladder, one.wait_seconds) for one in decisions[1:-1:2]} == {(0, 900)}
    assert code_of(decisions[-1]) == "quota_exceeded"


@pytest.mark.parametrize("others", [FULL, no_quota("training job", 1)])
def test_one_instance_type_whose_quota_is_in_use_is_worth_waiting_for(others: CaughtError) -> None:
    rounds = run_of([in_use(0), others, *[in_use(0)] * 30])
    assert all(one.retry for one in rounds)
    assert {one.ladder for one in rounds} == {0}


def test_a_ladder_on_which_nothing_is_in_use_any_more_counts_again() -> None:
    decisions = run_of([in_use(0), FULL] * 5 + [FULL] * 20)
    assert [one.ladder for one in decisions[-6:-1]] == [0, 1, 1, 2, 2]
    assert code_of(decisions[-1]) == "no_capacity"


def test_without_any_quota_the_run_ends_at_once_and_names_what_to_ask_for() -> None:
    decisions = run_of([no_quota("training job", 0), no_quota("training job", 1)])
    assert [one.retry for one in decisions] == [True, False]
    assert code_of(decisions[-1]) == "quota_exceeded"
    assert decisions[-1].failure is not None
    for instance_type in LADDER:
        assert f"'{instance_type} for training job usage'" in decisions[-1].failure.cause
    assert "Service Quotas" in decisions[-1].failure.cure


def test_an_instance_type_without_quota_is_left_out_from_then_on() -> None:
    decisions = run_of([no_quota("training job", 0), *[FULL] * 20])
    assert [one.ladder_rung for one in decisions[:-1]] == [1, 1, 1]
    assert [one.ladder for one in decisions[:-1]] == [0, 1, 2]


def test_without_spot_instances_the_ladder_is_climbed_on_demand() -> None:
    for refusals in ([FULL, FULL], [no_quota("spot training job", 0), no_quota("spot training job", 1)]):
        decisions = run_of([*refusals, FULL], capacity="spot")
        assert [(one.ladder_rung, one.on_demand, one.ladder) for one in decisions] == [
            (1, False, 0), (0, True, 0), (1, True, 0)
        ]  # fmt: skip


def test_without_a_quota_for_warm_pools_the_training_is_on_demand() -> None:
    refusals = [no_quota("training warm pool", 0), no_quota("training warm pool", 1)]
    assert [one.on_demand for one in run_of(refusals, capacity="warm-pool")] == [False, True]


def test_a_reclaimed_training_goes_on_on_spot_once_and_then_on_demand() -> None:
    decisions = run_of([RECLAIMED] * 5, capacity="spot")
    assert [(one.retry, one.on_demand) for one in decisions] == [
        (True, False),
        (True, True),
        (True, True),
        (False, True),
    ]
    assert {one.memory_tier for one in decisions} == {0}
    assert code_of(decisions[-1]) == "spot_reclaimed"


def test_out_of_memory_tries_one_memory_tier_lower_while_there_is_one() -> None:
    decisions = run_of([OUT_OF_MEMORY] * 10)
    assert [one.memory_tier for one in decisions[:-1]] == list(range(1, HIGHEST_MEMORY_TIER + 1))
    assert {one.ladder_rung for one in decisions} == {0}
    assert code_of(decisions[-1]) == "out_of_memory"


def test_a_killed_training_is_tried_once_more_whatever_else_failed_before() -> None:
    decisions = run_of([FULL, KILLED, KILLED])
    assert [one.retry for one in decisions] == [True, True, False]
    assert decisions[1].memory_tier == 1
    assert code_of(decisions[-1]) == "training_killed"


def test_what_sagemaker_broke_is_tried_again_as_it_was_after_a_wait_that_doubles() -> None:
    decisions = run_of([BROKEN] * 3)
    assert [(one.retry, one.wait_seconds) for one in decisions] == [(True, 30), (True, 60), (False, 0)]
    assert {(one.ladder_rung, one.memory_tier) for one in decisions} == {(0, 0)}
    assert code_of(decisions[-1]) == "sagemaker_failed"


def test_attempts_that_failed_together_do_not_come_back_together() -> None:
    waits = [recover(failed(FULL), LADDER, pause_seconds=30, jitter=jitter).wait_seconds for jitter in (0, 0.3, 1)]
    assert waits == [15, 24, 45]


@pytest.mark.parametrize(
    "error",
    [
        lambda_error(errors.EmptyDataset("none")),
        job_error("AlgorithmError: boom, exit code: 1"),
        stopped("MaxRuntimeExceeded"),
        stopped(),
        CaughtError(Error="States.Timeout"),
    ],
)
def test_what_cannot_succeed_is_not_tried_again(error: CaughtError) -> None:
    assert not recover(failed(error), LADDER).retry


def test_a_failure_after_the_training_does_not_train_again() -> None:
    error = lambda_error(errors.OutOfMemory("odd"))
    assert not recover(failed(error, artifact_uri="s3://b/k"), LADDER).retry
