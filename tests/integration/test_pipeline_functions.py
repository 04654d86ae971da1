"""The functions behind the states, in the order of the states, against moto."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from contracts import errors
from contracts.artifact import BaseModelManifest, PromotedVersion, SampleCheck, VersionManifest
from contracts.environment import StoreEnvironment
from contracts.pipeline import DatasetReport
from contracts.storage import (
    MANIFEST,
    base_model_prefix,
    checkpoint_prefix,
    class_image_folder,
    class_image_set_prefix,
    dataset_prefix,
    promoted_key,
    report_key,
    snapshot_prefix,
    version_manifest_key,
)
from contracts.training import (
    MAX_DATASET_INFO_BYTES,
    DatasetInfo,
    Hyperparameters,
    TrainingDefaults,
    TrainingRequest,
    settle_hyperparameters,
)
from lambdas.adapters import leftovers
from lambdas.adapters.data_bucket import DataBucket, Tagged
from lambdas.adapters.table import Subjects
from lambdas.hosting import host_model
from lambdas.pipeline import (
    check_dataset,
    close_execution,
    judge_model,
    plan_training,
    publish_model,
    recover,
    tell_failed,
    tell_ready,
)
from tests.integration.account import BUCKET, Account, Context, photo
from tests.integration.steps import INFO, ended, hosted, leave_model, plan, published, subject_of, take, taken, trained
from training_container.settings import read_settings

LONG_WARMUP = INFO.replace(b'"max_steps": 20', b'"lr_scheduler": "cosine", "lr_warmup_steps": 9, "max_steps": 8')


# ---- CheckDataset


def test_a_good_dataset_is_frozen_and_reported(account: Account, context: Context) -> None:
    payload = taken(account, context)
    checked = check_dataset.handler(payload, context)
    assert checked["instance_images"] == 2
    assert checked["ignored"] == ["x.txt"]
    snapshot = snapshot_prefix("dog", payload["dataset_id"])
    assert sorted(account.keys(snapshot)) == [snapshot + name for name in ("a.png", "b.jpg", "dataset_info.json")]
    info = DatasetInfo.parse(account.get(snapshot + "dataset_info.json"))
    assert (info.instance_prompt, info.base_model) == ("a photo of sks dog", "tiny")
    report = DatasetReport.model_validate_json(account.get(report_key("dog", payload["dataset_id"])))
    assert report.accepted
    assert {finding.path: finding.format for finding in report.images} == {"a.png": "png", "b.jpg": "jpeg"}


def test_captions_and_the_folders_of_further_subjects_are_frozen_too(account: Account, context: Context) -> None:
    cup = {"folder": "cup", "instance_prompt": "a photo of zwx cup", "class_prompt": "a photo of a cup"}
    files = {
        "a.png": photo(), "a.txt": b"sks dog on grass", "notes.txt": b"x", "cup/1.png": photo("red"),
        "cup/1.txt": b"zwx cup", "cup/class_data_dir/c.png": photo("green"), "other/2.png": photo("blue"),
        "dataset_info.json": json.dumps({**json.loads(INFO), "concepts": [cup]}).encode(),
    }  # fmt: skip
    payload = taken(account, context, files=files)
    checked = check_dataset.handler(payload, context)
    assert (checked["instance_images"], checked["class_images"]) == (2, 1)
    assert checked["ignored"] == ["notes.txt", "other/2.png"]
    assert checked["request"]["concepts"] == [cup]
    snapshot = snapshot_prefix("dog", payload["dataset_id"])
    assert {key.removeprefix(snapshot) for key in account.keys(snapshot)} == {
        "a.png", "a.txt", "cup/1.png", "cup/1.txt", "cup/class_data_dir/c.png", "dataset_info.json",
    }  # fmt: skip
    info = DatasetInfo.parse(account.get(snapshot + "dataset_info.json"))
    assert [concept.folder for concept in info.concepts] == ["cup"]


def test_a_dataset_without_info_is_named_after_its_folder(account: Account, context: Context) -> None:
    payload = taken(account, context, "red-panda", {"a.png": photo()})
    assert check_dataset.handler(payload, context)["request"]["instance_prompt"] == "a photo of sks red panda"


def give_defaults(account: Account, **defaults: dict[str, Any]) -> None:
    key = base_model_prefix("tiny") + MANIFEST
    manifest = BaseModelManifest.model_validate_json(account.get(key))
    given = TrainingDefaults.model_validate(defaults)
    account.put(key, manifest.model_copy(update={"training_defaults": given}).model_dump_json().encode())


def through_json(payload: dict[str, Any]) -> dict[str, Any]:
    """As the state machine hands it on."""
    handed: dict[str, Any] = json.loads(json.dumps(payload))
    return handed


@pytest.mark.parametrize(
    ("asked", "steps", "learning_rate"),
    [
        ({}, 300, 0.001),
        ({"max_steps": 20}, 20, 0.001),
        ({"learning_rate": 1e-4, "epochs": 20}, 40, 1e-4),  # 20 is the contract's default, but asked for
        ({"method": "full"}, 900, 3e-6),
    ],
)
def test_what_a_dataset_leaves_open_is_the_base_models_in_check_quote_job_and_program(
    account: Account, context: Context, tmp_path: Path, asked: dict[str, Any], steps: int, learning_rate: float
) -> None:
    lora, full = {"learning_rate": 0.001, "max_steps": 300}, {"learning_rate": 3e-6, "max_steps": 900}
    give_defaults(account, lora=lora, full=full)
    info = {"instance_prompt": "a photo of sks dog", "hyperparameters": asked}
    files = {"a.png": photo(), "b.png": photo("blue"), "dataset_info.json": json.dumps(info).encode()}
    checked = through_json(check_dataset.handler(taken(account, context, files=files), context))
    planned = through_json(plan_training.handler(checked, context))
    again = plan_training.handler(planned | {"attempt": 2}, context)
    assert planned["quote"]["steps"] == again["quote"]["steps"] == steps
    assert planned["training_job"]["HyperParameters"]["learning_rate"] == str(learning_rate)
    report = DatasetReport.model_validate_json(account.get(report_key("dog", planned["dataset_id"])))
    assert report.request is not None
    assert report.request.hyperparameters.learning_rate == learning_rate

    snapshot = account.get(snapshot_prefix("dog", planned["dataset_id"]) + "dataset_info.json")
    (tmp_path / "dataset_info.json").write_bytes(snapshot)
    read = read_settings(tmp_path, planned["training_job"]["HyperParameters"])
    elsewhere = TrainingDefaults.model_validate({"lora": {"max_steps": 5}, "full": {"max_steps": 5}})
    trained = settle_hyperparameters(read.hyperparameters, elsewhere, 512, has_classes=True)
    assert trained == Hyperparameters.model_validate(planned["request"]["hyperparameters"])
    assert trained.total_steps(2) == steps


def test_a_dataset_without_info_takes_the_base_models_defaults(account: Account, context: Context) -> None:
    give_defaults(account, lora={"max_steps": 123, "with_prior_preservation": True})
    checked = check_dataset.handler(taken(account, context, "red-panda", {"a.png": photo()}), context)
    settled = checked["request"]["hyperparameters"]
    assert (settled["max_steps"], settled["with_prior_preservation"]) == (123, True)


def test_the_quote_is_for_the_base_models_own_resolution(account: Account, context: Context) -> None:
    files = {"a.png": photo(), "dataset_info.json": b'{"instance_prompt": "a photo of sks dog"}'}
    checked = check_dataset.handler(taken(account, context, files=files), context)
    assert checked["request"]["hyperparameters"]["resolution"] == 64
    at_64 = plan_training.handler(checked, context)["quote"]
    checked["request"]["hyperparameters"]["resolution"] = 512
    assert plan_training.handler(checked, context)["quote"]["seconds"] > at_64["seconds"]


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"dataset_info.json": INFO, "a.png": b""}, errors.UnreadableImage),
        ({"a.png": b"just text"}, errors.UnreadableImage),
        ({"a.png": photo(), "b.jpg": photo("blue", "JPEG")[:-20]}, errors.UnreadableImage),
        ({"a.png": photo(), "dataset_info.json": b"{'a': 1}"}, errors.InvalidDatasetInfo),
        ({"a.png": photo(), "dataset_info.json": b"{}"}, errors.InvalidDatasetInfo),
        ({"a.png": photo(), "dataset_info.json": INFO + b" " * MAX_DATASET_INFO_BYTES}, errors.InvalidDatasetInfo),
        ({"a.png": photo(), "dataset_info.json": INFO[:-1] + b', "colour": "red"}'}, errors.InvalidDatasetInfo),
        ({"a.png": photo(), "dataset_info.json": INFO[:-1] + b', "base_model": "sd9"}'}, errors.UnknownBaseModel),
        ({"a.png": photo(), "dataset_info.json": LONG_WARMUP}, errors.InvalidDatasetInfo),
        ({"a.png": photo(), "../b.png": photo()}, errors.InvalidFileName),
        ({"a.png": photo()} | {f"{n}.png": b"x" for n in range(300)}, errors.TooManyImages),
    ],
)
def test_a_bad_dataset_ends_here_with_a_report(
    account: Account, context: Context, files: dict[str, bytes], error: type[errors.DreamdropError]
) -> None:
    payload = taken(account, context, files=files)
    with pytest.raises(error) as caught:
        check_dataset.handler(payload, context)
    report = DatasetReport.model_validate_json(account.get(report_key("dog", payload["dataset_id"])))
    assert not report.accepted
    assert report.error == caught.value.report
    assert account.keys(snapshot_prefix("dog", payload["dataset_id"])) == []


def test_every_bad_photo_is_told_with_its_own_reason(account: Account, context: Context) -> None:
    bad = {"empty.jpg": b"", "one.png": photo(size=(1, 1)), "strip.png": photo(size=(320, 16)), "text.png": b"text"}
    with pytest.raises(errors.UnreadableImage) as caught:
        check_dataset.handler(taken(account, context, files={"a.png": photo(), **bad}), context)
    assert caught.value.cause == (
        "These photos cannot be used: 'empty.jpg' (the file is empty), "
        "'one.png' (1×1 pixels show nothing; each side needs 16), "
        "'strip.png' (320×16 pixels; the longer side at most 16 times the shorter), "
        "'text.png' (its content is neither PNG, JPEG, WebP nor HEIC)."
    )


def test_of_many_bad_photos_some_are_told_and_where_the_others_are(account: Account, context: Context) -> None:
    payload = taken(account, context, files={f"{n:02}.png": photo(size=(320, 16)) for n in range(17)})
    with pytest.raises(errors.ImageTooLarge) as caught:
        check_dataset.handler(payload, context)
    assert caught.value.cause.count("320×16") == 5
    assert caught.value.cause.endswith(f" and 12 more: see {report_key('dog', payload['dataset_id'])}.")


def test_a_dataset_that_changes_under_the_check_says_so(account: Account, context: Context) -> None:
    payload = taken(account, context)
    account.drop("dog", {"a.png": photo("green")})
    with pytest.raises(errors.DatasetChanged):
        check_dataset.handler(payload, context)


def test_the_plan_is_a_whole_training_job_under_a_name_of_its_own(account: Account, context: Context) -> None:
    planned = plan(account, context)
    again = plan_training.handler(planned | {"attempt": 2, "ladder_rung": 1, "memory_tier": 1}, context)
    assert planned["job_name"] != again["job_name"]
    assert again["training_job"]["ResourceConfig"]["InstanceType"] == "ml.g4dn.xlarge"
    assert again["training_job"]["HyperParameters"]["memory_tier"] == "1"
    assert again["training_job"]["OutputDataConfig"] != planned["training_job"]["OutputDataConfig"]


def test_class_pictures_are_kept_at_publishing_and_brought_to_the_next_job(account: Account, context: Context) -> None:
    info = json.loads(INFO) | {"class_prompt": "a photo of a dog"}
    info["hyperparameters"] |= {"with_prior_preservation": True, "num_class_images": 3, "resolution": 512}
    files = {"a.png": photo(), "dataset_info.json": json.dumps(info).encode()}

    def planned(subject: str) -> dict[str, Any]:
        checked = check_dataset.handler(taken(account, context, subject, files), context)
        done: dict[str, Any] = plan_training.handler(checked, context)
        return done

    first = planned("dog")
    assert [channel["ChannelName"] for channel in first["training_job"]["InputDataConfig"]] == ["training", "model"]
    request = TrainingRequest.model_validate(first["request"])
    checksum = BaseModelManifest.model_validate_json(account.get("base-models/tiny/manifest.json")).checksum
    [name] = request.class_image_sets(checksum)
    drawn = f"{checkpoint_prefix('dog', first['dataset_id'])}{class_image_folder(name)}/"
    for number in range(3):
        account.put(f"{drawn}class-000{number}.png", photo())
    account.put(f"{drawn}class-0003.partial", b"half")
    output = f"{first['training_job']['OutputDataConfig']['S3OutputPath']}/{first['job_name']}/output/model"
    leave_model(account, output, checksum)
    judged = judge_model.handler(first | {"artifact_uri": output, "billable_seconds": 60}, context)
    publish_model.handler(judged, context)
    kept = class_image_set_prefix(name)
    assert account.keys(kept) == [f"{kept}class-000{number}.png" for number in range(3)]

    second = planned("cat")
    channels = {channel["ChannelName"]: channel for channel in second["training_job"]["InputDataConfig"]}
    source = channels[class_image_folder(name)]["DataSource"]["S3DataSource"]
    assert source["S3Uri"] == f"s3://{BUCKET}/{kept}"
    assert second["quote"]["seconds"] < first["quote"]["seconds"]


def test_a_training_goes_on_from_the_model_of_a_ready_subject(account: Account, context: Context) -> None:
    def checked(subject: str, **info: Any) -> dict[str, Any]:
        content = json.dumps(json.loads(INFO) | info).encode()
        files = {"a.png": photo("blue"), "dataset_info.json": content}
        done: dict[str, Any] = check_dataset.handler(taken(account, context, subject, files), context)
        return done

    with pytest.raises(errors.InvalidPreviousModel, match="no model dog"):
        checked("puppy", continue_from="dog")
    checksum = BaseModelManifest.model_validate_json(account.get("base-models/tiny/manifest.json")).checksum
    planned = plan(account, context)
    output = f"{planned['training_job']['OutputDataConfig']['S3OutputPath']}/{planned['job_name']}/output/model"
    leave_model(account, output, checksum)
    judged = judge_model.handler(planned | {"artifact_uri": output, "billable_seconds": 60}, context)
    done = hosted(publish_model.handler(judged, context), context)

    going_on = checked("kitten", continue_from="dog")
    assert going_on["request"]["continue_from"] == f"dog@{done['version']}"
    assert going_on["request"]["hyperparameters"]["lora_rank"] == Hyperparameters().lora_rank
    again = checked("cub", continue_from=f"dog@{done['version']}")
    for payload in (going_on, again):
        job = plan_training.handler(payload, context)["training_job"]
        channels = {channel["ChannelName"]: channel for channel in job["InputDataConfig"]}
        assert channels["previous"]["DataSource"]["S3DataSource"]["S3Uri"] == f"{output}/"
    with pytest.raises(errors.InvalidPreviousModel, match="method is lora"):
        checked("cat", continue_from="dog", hyperparameters={"method": "full"})
    with pytest.raises(errors.InvalidPreviousModel, match="no model dog@"):
        checked("lion", continue_from="dog@0123456789ab-1")


def test_a_plan_over_the_budget_is_refused(account: Account, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = check_dataset.handler(taken(account, context), context)
    monkeypatch.setenv("TRAINING_BUDGET_DOLLARS", "0.01")
    with pytest.raises(errors.OverBudget):
        plan_training.handler(checked, context)


def test_a_trained_model_is_judged_published_hosted_and_told(
    account: Account, context: Context, subjects: Subjects
) -> None:
    done = published(account, context)
    manifest = VersionManifest.model_validate_json(account.get(version_manifest_key("dog", done["version"])))
    assert manifest.training_job == done["job_name"]
    assert account.keys(manifest.prefix)
    assert not subject_of(subjects).ready  # no endpoint yet
    first = host_model.handler(done, context)
    assert first["endpoint_status"] == "Creating"
    assert account.keys(promoted_key("dog")) == []
    hosted = host_model.handler(first, context)
    assert hosted["endpoint_status"] == "InService"
    assert promoted(account).version == done["version"]
    assert tell_ready.handler(hosted, context)["event"] == "subject.ready"
    ready = subject_of(subjects)
    assert (ready.ready, ready.status, ready.version) == (True, "succeeded", done["version"])
    assert ready.run is not None
    assert promoted(account).taken_at == ready.run.stages[0].at
    stages = ["taken", "checking", "planning", "training", "judging", "publishing", "hosting", "ready"]
    assert [entry.stage for entry in ready.run.stages] == stages
    assert ready.run.receipt is not None
    assert ready.run.receipt.billable_seconds == 60


@pytest.mark.parametrize(
    ("summary", "error"),
    [
        ({"held_out_after": 5.0}, errors.ModelRejected),
        ({"held_out_after": float("nan")}, errors.TrainingDiverged),
        ({"last_loss": float("inf")}, errors.TrainingDiverged),
        ({"samples": [SampleCheck(path="s.png", finite=True, contrast=0.0)]}, errors.ModelRejected),
        ({"samples": [SampleCheck(path="s.png", finite=False, contrast=0.3)]}, errors.ModelRejected),
    ],
)
def test_a_bad_model_is_not_promoted(
    account: Account, context: Context, subjects: Subjects, summary: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        judge_model.handler(trained(account, context, **summary), context)
    assert subject_of(subjects).version is None


def test_a_model_with_a_missing_file_is_not_promoted(account: Account, context: Context) -> None:
    payload = trained(account, context)
    prefix = payload["artifact_uri"].removeprefix(f"s3://{BUCKET}/")
    account.put(f"{prefix}/pytorch_lora_weights.safetensors", b"cut")
    with pytest.raises(errors.TrainingCrashed, match="incomplete"):
        judge_model.handler(payload, context)


def test_a_model_outside_its_own_prefix_is_not_read(account: Account, context: Context) -> None:
    payload = trained(account, context)
    for uri in ("s3://elsewhere/model", f"s3://{BUCKET}/models/other/000000000000-1/j/output/model"):
        with pytest.raises(errors.TrainingCrashed):
            judge_model.handler(payload | {"artifact_uri": uri}, context)


def test_an_older_dataset_never_replaces_a_newer_one(account: Account, context: Context, subjects: Subjects) -> None:
    slow = publish_model.handler(judge_model.handler(trained(account, context), context), context)
    account.drop("dog", {"c.png": photo("green")})
    fast = hosted(published(account, context), context)
    assert fast["version"] != slow["version"]
    hosted(slow, context)
    assert subject_of(subjects).version == promoted(account).version == fast["version"]
    assert account.keys(version_manifest_key("dog", slow["version"]))  # kept, not served
    account.s3.delete_object(Bucket=BUCKET, Key=promoted_key("dog"))  # as after promotions that did not write it yet
    hosted(slow, context)
    assert account.keys(promoted_key("dog")) == []


def promoted(account: Account) -> PromotedVersion:
    return PromotedVersion.model_validate_json(account.get(promoted_key("dog")))


@pytest.mark.parametrize(("others_age", "survives"), [(timedelta(days=-1), True), (timedelta(days=1), False)])
@pytest.mark.parametrize("existing", [True, False])
def test_of_two_promotions_that_meet_the_newer_dataset_is_what_containers_read(
    account: Account, context: Context, monkeypatch: pytest.MonkeyPatch, existing: bool, others_age: timedelta,
    survives: bool,
) -> None:  # fmt: skip
    """The other run writes after this one has read and before it writes."""
    done = published(account, context)
    other = PromotedVersion(version="0" * 12 + "-1", taken_at=datetime.now(UTC) - others_age)
    if existing:
        account.put(promoted_key("dog"), b'{"version": "111111111111-1", "taken_at": "2020-01-01T00:00:00Z"}')
    reads: list[Tagged | None] = []
    read_tagged = DataBucket.read_tagged

    def read_and_be_overtaken(bucket: DataBucket, key: str) -> Tagged | None:
        found = read_tagged(bucket, key)
        if key == promoted_key("dog"):
            reads.append(found)
            if len(reads) == 1:
                account.put(key, other.model_dump_json().encode())
        return found

    monkeypatch.setattr(DataBucket, "read_tagged", read_and_be_overtaken)
    hosted(done, context)
    assert len(reads) == 2
    assert promoted(account).version == (other.version if survives else done["version"])


def test_an_object_that_was_deleted_after_it_was_read_is_not_replaced(account: Account) -> None:
    bucket, key = DataBucket(BUCKET), promoted_key("dog")
    assert bucket.replace(key, b"1", None)
    assert not bucket.replace(key, b"2", None)
    found = bucket.read_tagged(key)
    assert found is not None
    account.s3.delete_object(Bucket=BUCKET, Key=key)
    assert not bucket.replace(key, b"3", found.etag)


# ---- failures


def test_a_failure_is_recorded_once_and_the_first_one_counts(
    account: Account, context: Context, subjects: Subjects
) -> None:
    payload = taken(account, context)
    error = errors.EmptyDataset("no photo")
    cause = json.dumps({"errorMessage": str(error), "errorType": "EmptyDataset"})
    decision = recover.handler(payload | {"error": {"Error": "EmptyDataset", "Cause": cause}}, context)
    assert decision["retry"] is False
    told = tell_failed.handler(payload | decision, context)
    assert told["error"]["code"] == "empty_dataset"
    close_execution.handler(ended("FAILED", payload), context)
    run = subject_of(subjects).run
    assert run is not None
    assert run.status == "failed"
    assert run.error == error.report
    assert [entry.stage for entry in run.stages] == ["taken", "failed"]


@pytest.mark.parametrize(
    ("status", "code"), [("ABORTED", "interrupted"), ("TIMED_OUT", "interrupted"), ("FAILED", "internal_error")]
)
def test_an_execution_that_ends_without_telling_still_ends_its_run(
    account: Account, context: Context, subjects: Subjects, status: str, code: str
) -> None:
    close_execution.handler(ended(status, taken(account, context)), context)
    run = subject_of(subjects).run
    assert run is not None
    assert run.error is not None
    assert (run.status, run.error.code) == ("failed", code)


def test_what_step_functions_says_of_a_broken_execution_is_told(
    account: Account, context: Context, subjects: Subjects
) -> None:
    why = {"error": "States.Runtime", "cause": "The field is not supported by Step Functions"}
    close_execution.handler(ended("FAILED", taken(account, context), **why), context)
    run = subject_of(subjects).run
    assert run is not None
    assert run.error is not None
    assert "(States.Runtime: The field is not supported by Step Functions)" in run.error.cause


@pytest.mark.parametrize("status", ["ABORTED", "TIMED_OUT", "FAILED"])
def test_an_execution_that_ends_while_it_trains_stops_the_job_of_its_last_attempt(
    account: Account, context: Context, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    stopped: list[str] = []
    monkeypatch.setattr(leftovers, "stop_job", stopped.append)
    again = plan_training.handler(plan(account, context) | {"attempt": 2}, context)
    close_execution.handler(ended(status, again), context)
    assert stopped == [again["job_name"]]


def test_a_failed_retraining_leaves_the_old_version_serving(
    account: Account, context: Context, subjects: Subjects
) -> None:
    done = hosted(published(account, context), context)
    account.drop("dog", {"bad.png": b"text"})
    take(context, dataset_prefix("dog") + "bad.png")
    close_execution.handler(ended("ABORTED", {**done, "run_id": subject_of(subjects).run.id}), context)  # type: ignore[union-attr]
    after = subject_of(subjects)
    assert after.status == "failed"
    assert (after.ready, after.version) == (True, done["version"])


def test_missing_variables_are_named() -> None:
    with pytest.raises(ValueError, match="table_name"):
        StoreEnvironment.from_variables({"DATA_BUCKET": "b"})


def test_a_step_that_aws_does_not_answer_says_so_by_a_name_that_is_retried(
    account: Account, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def throttled(*_: Any) -> None:
        raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "Rate exceeded"}}, "UpdateItem")

    monkeypatch.setattr(Subjects, "enter", throttled)
    with pytest.raises(errors.Unavailable, match="Rate exceeded"):
        check_dataset.handler({"subject": "rex", "dataset_id": "0" * 12, "run_id": "r"}, context)
