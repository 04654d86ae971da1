"""The daily budget and the receipts, from reservation to settlement, against moto."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from contracts import errors
from contracts.pipeline import DatasetTaken, JobReceipt, Run
from contracts.storage import spending_item
from lambdas.adapters import configuration, leftovers, spending
from lambdas.adapters.spending import Spending
from lambdas.adapters.table import Subjects
from lambdas.domain.openapi import document
from lambdas.domain.pricing import job_receipt
from lambdas.pipeline import judge_model, plan_training, recover, settle_training, tell_failed
from tests.integration.account import TABLE, Account, Context
from tests.integration.steps import plan, trained

TODAY = date(2026, 11, 21)
QUOTA = "The account-level service limit 'ml.g5.xlarge for training job usage' is 0 Instances"


def taken(name: str = "dog", owner: str = "111111111111") -> DatasetTaken:
    made = DatasetTaken(subject=name, dataset_id="0" * 12, run_id=f"{name}-1", owner=owner)
    Subjects(TABLE).take(made, datetime.now(UTC))
    return made


def bill(attempt: int, seconds: int) -> JobReceipt:
    return job_receipt(
        attempt, "ml.g5.xlarge", is_billed=True, training_seconds=seconds, billable_seconds=seconds
    )  # an hour is $1.408


def reserve(run: DatasetTaken, attempt: int, dollars: float, day: date = TODAY) -> bool:
    return Spending(TABLE).reserve(run, attempt, dollars, budget_dollars=10, day=day)


def overtake_once(monkeypatch: pytest.MonkeyPatch, other: Callable[[], object]) -> None:
    """The other one writes after this one has read and before it writes."""
    write, overtaken = Spending._both, []

    def overtaken_write(self: Spending, *updates: dict[str, Any]) -> bool:
        if not overtaken:
            overtaken.append(True)
            other()
        return write(self, *updates)

    monkeypatch.setattr(Spending, "_both", overtaken_write)


@pytest.mark.usefixtures("account")
class TestTheCounter:
    def test_a_day_has_room_for_its_budget_and_the_next_day_has_its_own(self) -> None:
        dog, cat = taken("dog"), taken("cat")
        assert reserve(dog, 1, 6)
        assert not reserve(cat, 1, 5)
        assert reserve(cat, 1, 4)
        assert Spending(TABLE).of_day(dog, TODAY) == 10
        assert reserve(cat, 2, 6, date(2026, 11, 22))
        assert not reserve(dog, 2, 10.01, date(2026, 11, 23))  # more than a whole day

    def test_owners_do_not_share_a_budget(self) -> None:
        assert reserve(taken("dog"), 1, 10)
        assert reserve(taken("cat", "222222222222"), 1, 10)

    def test_a_repeated_reservation_counts_once(self) -> None:
        dog = taken()
        assert [reserve(dog, 1, 6) for _ in range(3)] == [True] * 3
        assert Spending(TABLE).of_day(dog, TODAY) == 6

    def test_the_receipt_replaces_the_reservation_however_often_it_comes(self) -> None:
        dog = taken()
        reserve(dog, 1, 6)
        assert [Spending(TABLE).settle(dog, bill(1, 3600)) for _ in range(3)] == [1.408, 0, 0]
        assert Spending(TABLE).of_day(dog, TODAY) == 1.408
        assert Spending(TABLE).settle(dog, bill(1, 7200)) == pytest.approx(1.408)  # the truth came later
        assert Spending(TABLE).of_day(dog, TODAY) == 2.816

    def test_a_settlement_counts_for_the_day_of_its_reservation(self) -> None:
        dog = taken()
        reserve(dog, 1, 6, date(2020, 1, 1))
        Spending(TABLE).settle(dog, bill(1, 3600))
        assert Spending(TABLE).of_day(dog, date(2020, 1, 1)) == 1.408

    def test_what_was_never_reserved_is_not_settled(self) -> None:
        assert Spending(TABLE).settle(taken(), bill(1, 3600)) == 0
        unknown = DatasetTaken(subject="gone", dataset_id="0" * 12, run_id="gone-1")
        assert Spending(TABLE).settle(unknown, bill(1, 3600)) == 0

    def test_of_two_runs_that_meet_one_has_the_last_dollars(self, monkeypatch: pytest.MonkeyPatch) -> None:
        dog, cat = taken("dog"), taken("cat")
        overtake_once(monkeypatch, lambda: reserve(cat, 1, 6))
        assert not reserve(dog, 1, 6)
        assert Spending(TABLE).of_day(dog, TODAY) == 6

    def test_two_that_settle_a_job_at_once_count_it_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        dog = taken()
        reserve(dog, 1, 6)
        overtake_once(monkeypatch, lambda: Spending(TABLE).settle(dog, bill(1, 3600)))
        assert Spending(TABLE).settle(dog, bill(1, 3600)) == 0
        assert Spending(TABLE).of_day(dog, TODAY) == 1.408

    @pytest.mark.parametrize(("meetings", "times_away"), [(2, 0), (spending.MEETINGS, 1)])
    def test_another_transaction_at_the_counter_is_waited_for_and_then_comes_back_later(
        self, monkeypatch: pytest.MonkeyPatch, meetings: int, times_away: int
    ) -> None:
        dog = taken()
        ledger = Spending(TABLE)
        client = ledger._table.meta.client
        write, refusals = client.transact_write_items, ["TransactionConflict"] * meetings

        def busy(**request: Any) -> Any:
            if refusals:
                reasons = [{"Code": "None"}, {"Code": refusals.pop()}]
                error: Any = {"Error": {"Code": "TransactionCanceledException"}, "CancellationReasons": reasons}
                raise ClientError(error, "TransactWriteItems")
            return write(**request)

        monkeypatch.setattr(client, "transact_write_items", busy)
        monkeypatch.setattr(spending, "PAUSE_SECONDS", 0)
        for _ in range(times_away):
            with pytest.raises(errors.Unavailable):
                ledger.reserve(dog, 1, 6, budget_dollars=10, day=TODAY)
        assert ledger.reserve(dog, 1, 6, budget_dollars=10, day=TODAY)
        assert ledger.of_day(dog, TODAY) == 6

    def test_a_counter_is_forgotten_some_day(self) -> None:
        reserve(taken(), 1, 6)
        row = boto3.resource("dynamodb").Table(TABLE).get_item(Key=spending_item("111111111111", TODAY)._asdict())
        assert int(row["Item"]["expires_at"]) > datetime(2026, 12, 21, tzinfo=UTC).timestamp()


def spent_today(payload: dict[str, Any]) -> float:
    return Spending(TABLE).of_day(DatasetTaken.model_validate(payload), datetime.now(UTC).date())


def run_of(payload: dict[str, Any]) -> Run:
    found = Subjects(TABLE).run(payload["subject"], payload["run_id"])
    assert found is not None
    return found


def job_failure(planned: dict[str, Any], seconds: int, **more: Any) -> dict[str, str]:
    job = {
        **planned["training_job"],
        "TrainingJobStatus": "Failed",
        "SecondaryStatus": "Failed",
        "FailureReason": f"AlgorithmError: {errors.OutOfMemory('full')}, exit code: 1",
        "TrainingTimeInSeconds": seconds,
        "BillableTimeInSeconds": seconds,
        **more,
    }
    return {"Error": "States.TaskFailed", "Cause": json.dumps(job)}


def test_the_owner_is_who_uploaded_as_aws_says_not_what_the_dataset_says(account: Account, context: Context) -> None:
    planned = plan(account, context)
    assert planned["owner"] == "123456789012"
    assert spent_today(planned) == planned["quote"]["limit_dollars"]


def test_over_the_daily_budget_no_job_is_planned(
    account: Account, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(account, context)
    monkeypatch.setenv("DAILY_BUDGET_DOLLARS", str(planned["quote"]["limit_dollars"] + 0.01))
    configuration._parsed.cache_clear()
    with pytest.raises(errors.DailyBudgetReached, match=r"\$4\.22 of today's \$4\.23") as refused:
        plan_training.handler(planned | {"attempt": 2}, context)
    assert "midnight UTC" in refused.value.cure
    assert "daily_budget_dollars" in refused.value.cure
    assert spent_today(planned) == planned["quote"]["limit_dollars"]


def test_a_failed_attempt_is_billed_and_the_next_one_has_what_is_left(account: Account, context: Context) -> None:
    planned = plan(account, context)
    decision = recover.handler(planned | {"error": job_failure(planned, 3600)}, context)
    assert decision["retry"]
    assert spent_today(planned) == 1.408
    again = plan_training.handler(planned | decision, context)
    assert again["quote"]["limit_dollars"] <= 5.0 - 1.408
    receipt = run_of(planned).receipt
    assert receipt is not None
    assert [(job.attempt, job.dollars) for job in receipt.jobs] == [(1, 1.408)]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs that there are, without those that were stopped; moto can stop none."""
    names: list[str] = []

    def stop(name: str) -> bool:
        was_there = name in names
        names[:] = [other for other in names if other != name]
        return was_there

    monkeypatch.setattr(leftovers, "stop_job", stop)
    return names


@pytest.mark.usefixtures("made")
def test_a_refused_job_gives_its_reservation_back(account: Account, context: Context) -> None:
    planned = plan(account, context)
    refused = {"Error": "SageMaker.ResourceLimitExceededException", "Cause": QUOTA}
    decision = recover.handler(planned | {"error": refused}, context)
    assert (decision["retry"], decision["ladder_rung"]) == (True, 1)
    assert 15 <= decision["wait_seconds"] <= 45
    assert spent_today(planned) == 0


def test_a_job_that_was_made_although_its_request_failed_keeps_its_reservation_until_it_has_stopped(
    account: Account, context: Context, made: list[str]
) -> None:
    planned = plan(account, context)
    made.append(planned["job_name"])
    lost = {"Error": "SageMaker.SdkClientException", "Cause": "Unable to execute HTTP request: Read timed out"}
    decision = recover.handler(planned | {"error": lost}, context)
    assert (decision["retry"], decision["attempt"], decision["ladder_rung"]) == (True, 2, 0)
    assert spent_today(planned) == planned["quote"]["limit_dollars"]


def test_a_job_that_takes_too_long_is_stopped_and_keeps_its_reservation_until_its_end_is_told(
    account: Account, context: Context, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(account, context)
    made.append(planned["job_name"])
    decision = recover.handler(planned | {"error": {"Error": "States.Timeout", "Cause": ""}}, context)
    assert not decision["retry"]
    assert made == []
    assert spent_today(planned) == planned["quote"]["limit_dollars"]
    ended = json.loads(job_failure(planned, 7200, TrainingJobStatus="Stopped", SecondaryStatus="Stopped")["Cause"])
    ended |= {"EnableManagedSpotTraining": True, "BillableTimeInSeconds": 1800, "FailureReason": ""}
    monkeypatch.setattr(settle_training.jobs, "describe", lambda name: ended if name == planned["job_name"] else None)
    for _ in range(2):  # EventBridge may deliver twice
        settle_training.handler(job_event(planned["job_name"]), context)
    assert spent_today(planned) == 0.704
    told = tell_failed.handler(planned | decision, context)
    assert told["receipt"]["dollars"] == 0.704
    assert told["receipt"]["saved_percent"] == 75.0
    receipt = run_of(planned).receipt
    assert receipt is not None
    assert receipt.plain() == told["receipt"]


def test_the_end_of_a_job_of_others_is_none_of_ours(account: Account, context: Context) -> None:
    settle_training.handler(job_event("dreamdrop-something-else"), context)


def job_event(name: str) -> dict[str, Any]:
    detail = {"TrainingJobName": name, "TrainingJobStatus": "Stopped"}
    return {
        "version": "0", "id": "1", "source": "aws.sagemaker", "account": "1", "time": "2026-01-01T00:00:00Z",
        "region": "us-east-1", "resources": [], "detail-type": "SageMaker Training Job State Change", "detail": detail,
    }  # fmt: skip


def test_a_good_job_is_settled_before_it_is_judged(account: Account, context: Context) -> None:
    payload = trained(account, context, held_out_after=5.0) | {"training_seconds": 60}
    with pytest.raises(errors.ModelRejected):
        judge_model.handler(payload, context)
    receipt = run_of(payload).receipt
    assert receipt is not None
    assert (receipt.training_seconds, receipt.billable_seconds, receipt.dollars) == (60, 60, 0.0235)
    assert spent_today(payload) == 0.0235


def test_where_nobody_bills_nothing_is_reserved_and_the_seconds_are_told(
    account: Account, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINING_IS_BILLED", "False")
    payload = trained(account, context) | {"training_seconds": 60}
    assert spent_today(payload) == 0
    judge_model.handler(payload, context)
    receipt = run_of(payload).receipt
    assert receipt is not None
    assert (receipt.billable_seconds, receipt.dollars, receipt.jobs[0].price) == (60, 0, None)


def test_the_api_describes_receipts() -> None:
    schemas = document()["components"]["schemas"]
    assert schemas["Run"]["properties"]["receipt"]["anyOf"][0] == {"$ref": "#/components/schemas/Receipt"}
    assert schemas["JobReceipt"]["properties"]["saved_dollars"]["description"]
