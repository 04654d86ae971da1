"""What begins a run: uploads, their duplicates, and what is no dataset, against moto."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from contracts.pipeline import DatasetTaken, Run
from contracts.storage import dataset_prefix
from lambdas.adapters.table import Subjects
from lambdas.intake import take_dataset
from lambdas.pipeline import close_execution
from tests.integration.account import Account, Context, photo
from tests.integration.steps import INFO, created, ended, subject_of, take, taken


def test_fifty_deliveries_of_one_upload_train_once(account: Account, context: Context, subjects: Subjects) -> None:
    account.drop("dog", {"a.png": photo(), "dataset_info.json": INFO})
    for _ in range(5):
        take(context, *[dataset_prefix("dog") + "a.png"] * 10)
    assert len(account.executions()) == 1
    run = subject_of(subjects).run
    assert run is not None
    assert [entry.stage for entry in run.stages] == ["taken"]


def test_photos_whose_run_has_ended_start_nothing_when_the_name_of_their_execution_is_free_again(
    account: Account, context: Context, subjects: Subjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(take_dataset.events, "start_execution", lambda _machine, run: started.append(run.run_id))
    key = dataset_prefix("dog") + "a.png"
    account.drop("dog", {"a.png": photo()})
    take(context, key)
    run = DatasetTaken(subject="dog", dataset_id=started[0].removeprefix("dog-"), run_id=started[0])
    take(context, key)
    assert started == [run.run_id] * 2  # it runs, as far as anybody knows: safe to repeat
    subjects.succeed(run)
    account.drop("dog", {"a.png": photo()})
    take(context, key)
    assert len(started) == 2


def test_two_deliveries_that_meet_train_once(
    account: Account, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    account.drop("dog", {"a.png": photo()})
    key, read_run, overtaken = dataset_prefix("dog") + "a.png", Subjects.run, []

    def overtake_and_read(self: Subjects, subject: str, run_id: str) -> Run | None:
        if not overtaken:
            overtaken.append(run_id)
            take(context, key)
        return read_run(self, subject, run_id)

    monkeypatch.setattr(Subjects, "run", overtake_and_read)
    take(context, key)
    assert [execution["name"] for execution in account.executions()] == overtaken


def test_an_event_that_a_later_upload_has_overtaken_starts_nothing(account: Account, context: Context) -> None:
    account.drop("dog", {"a.png": photo()})
    take(context, dataset_prefix("dog") + "a.png", at=datetime.now(UTC) - timedelta(seconds=30))
    assert account.executions() == []


def test_a_changed_dataset_is_another_run(account: Account, context: Context) -> None:
    first = taken(account, context)
    account.drop("dog", {"c.png": photo("green")})
    take(context, dataset_prefix("dog") + "c.png")
    assert len({e["name"] for e in account.executions()}) == 2
    assert first["run_id"] in {e["name"] for e in account.executions()}


def test_going_back_to_earlier_photos_is_a_new_run_and_its_duplicates_are_none(
    account: Account, context: Context, subjects: Subjects
) -> None:
    names = []
    for colour in ("red", "blue", "red"):
        account.drop("dog", {"a.png": photo(colour)})
        for _ in range(3):
            take(context, dataset_prefix("dog") + "a.png")
        names.append(subject_of(subjects).run.id)  # type: ignore[union-attr]
    assert len(set(names)) == 3
    assert {execution["name"] for execution in account.executions()} == set(names)


def test_dropping_the_same_photos_again_after_a_failure_is_a_new_run(
    account: Account, context: Context, subjects: Subjects
) -> None:
    payload = taken(account, context)
    close_execution.handler(ended("ABORTED", payload), context)
    take(context, dataset_prefix("dog") + "a.png")  # a late duplicate of the first upload
    assert subject_of(subjects).run.id == payload["run_id"]  # type: ignore[union-attr]
    time.sleep(1.1)  # S3 tells times in whole seconds
    account.drop("dog", {"a.png": photo()})
    take(context, dataset_prefix("dog") + "a.png")
    assert subject_of(subjects).run.id != payload["run_id"]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["My Dog", "dög", "..", "UPPER"])
def test_an_unusable_subject_name_is_told_and_not_lost(
    account: Account, context: Context, subjects: Subjects, name: str
) -> None:
    account.put(f"datasets/{name}/a.png", photo())
    assert take(context, f"datasets/{name}/a.png") == {"batchItemFailures": []}
    refused = subject_of(subjects, name)
    assert refused.status == "failed"
    assert refused.error is not None
    assert refused.error.code == "invalid_subject_name"
    assert account.executions() == []


def test_folder_markers_and_deleted_datasets_start_nothing(account: Account, context: Context) -> None:
    assert take(context, "datasets/dog/", "datasets/gone/a.png") == {"batchItemFailures": []}
    assert account.executions() == []


@pytest.mark.parametrize(("key", "told"), [("datasets/a.png", ["datasets/a.png"]), ("datasets/dog/", [])])
def test_a_photo_in_no_folder_is_told_with_the_cure_in_the_log(
    account: Account, context: Context, caplog: pytest.LogCaptureFixture, key: str, told: list[str]
) -> None:
    account.put(key, photo())
    assert take(context, key) == {"batchItemFailures": []}
    assert [(vars(record)["key"], "datasets/<name>/" in vars(record)["cure"]) for record in caplog.records] == [
        (key, True) for key in told
    ]


def test_an_event_that_cannot_be_read_goes_back_to_the_queue(account: Account, context: Context) -> None:
    record = created("datasets/dog/a.png") | {"body": "{}"}
    with pytest.raises(Exception, match="All records failed"):
        take_dataset.handler({"Records": [record]}, context)
