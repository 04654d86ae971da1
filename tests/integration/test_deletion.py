"""The deletion of a subject, against moto: what goes, what stays, and what happens beside it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.sqs import sqs_backends

from contracts.errors import InternalError
from contracts.generation import InferenceAnswer, InferenceTimings
from contracts.pipeline import DatasetTaken, Deletion, Subject
from contracts.storage import (
    MADE_OF_A_SUBJECT,
    class_image_set_prefix,
    class_user_item,
    dataset_prefix,
    generation_item,
    promoted_key,
    version_manifest_key,
)
from lambdas.adapters import clients, events, hosting, leftovers
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.table import Deletions, Generations, Subjects
from lambdas.api import record_generation
from lambdas.deletion import delete_subject
from tests.integration.account import ACCOUNT, BUCKET, REGION, TABLE, Account, Context, photo
from tests.integration.api_parts import ARTIST, ASK, VERSION, Api, Endpoint, host, notice
from tests.integration.steps import INFO, take

DATASET = VERSION.partition("-")[0]
OTHER_VERSION = "aaaaaaaaaaaa-1"
RUN = DatasetTaken(subject="dog", dataset_id=DATASET, run_id=f"dog-{DATASET}")


@pytest.fixture
def endpoint(account: Account, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    made = Endpoint()
    monkeypatch.setattr(hosting, "submit", made.submit)
    monkeypatch.setattr(hosting, "wake", made.wake)
    return made


@pytest.fixture
def api(endpoint: Endpoint, context: Context) -> Api:
    return Api(context)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Every pause that was made."""
    made: list[float] = []
    monkeypatch.setattr(delete_subject.time, "sleep", made.append)
    yield made


def versioned(account: Account) -> None:
    account.s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})


def furnish(account: Account, subject: str) -> list[str]:
    """A hosted subject with something under each of its prefixes; the keys."""
    host(subject)
    keys = [f"{folder}{subject}/{DATASET}/a.bin" for folder in MADE_OF_A_SUBJECT]
    keys += [version_manifest_key(subject, VERSION), promoted_key(subject), dataset_prefix(subject)]
    for key in keys:
        account.put(key, b"first")
        account.put(key, b"second")
    return keys


def draw(account: Account, context: Context, api: Api, **asked: Any) -> str:
    """A finished generation; its answer lies in inference/output/<id>.out."""
    generation: str = api.draw(ASK | {"num_images_per_prompt": 1} | asked)[1]["id"]
    answer(account, context, generation)
    return generation


def answer(account: Account, context: Context, generation: str) -> None:
    image = base64.b64encode(photo()).decode()
    content = InferenceAnswer(
        generated_images=[image], prompt="p", seeds=[7], timings=InferenceTimings(load_ms=1, compute_ms=1)
    )
    key = f"inference/output/{generation}.out"
    account.put(key, content.model_dump_json().encode())
    location = {"responseParameters": {"outputLocation": f"s3://{BUCKET}/{key}"}}
    answered = record_generation.handler({"Records": [notice(generation, **location)]}, context)
    assert answered == {"batchItemFailures": []}


def delete(account: Account, context: Context) -> Any:
    """What is in line, as Lambda hands it over."""
    sqs = clients.client("sqs")
    messages = sqs.receive_message(QueueUrl=account.deletion_queue_url, MaxNumberOfMessages=10)["Messages"]
    records = [
        {"messageId": str(index), "receiptHandle": message["ReceiptHandle"], "body": message["Body"],
         "attributes": {"ApproximateReceiveCount": "2"}, "md5OfBody": "",
         "messageAttributes": {}, "eventSource": "aws:sqs", "eventSourceARN": "a", "awsRegion": "r"}
        for index, message in enumerate(messages)
    ]  # fmt: skip
    return delete_subject.handler({"Records": records}, context)


def everything(account: Account) -> list[str]:
    """Keys of versions and delete markers."""
    found = account.s3.list_object_versions(Bucket=BUCKET)
    return sorted({item["Key"] for item in [*found.get("Versions", []), *found.get("DeleteMarkers", [])]})


def rows(start: str) -> list[str]:
    found = clients.client("dynamodb").scan(TableName=TABLE)["Items"]
    return [f"{item['pk']['S']} {item['sk']['S']}" for item in found if item["pk"]["S"].startswith(start)]


@pytest.mark.parametrize("versions", [False, True])
def test_what_was_made_of_a_subject_goes_and_a_record_stays(
    account: Account, context: Context, api: Api, versions: bool
) -> None:
    if versions:
        versioned(account)
    base = everything(account)
    kept = [*furnish(account, "dog-2"), *furnish(account, "cat")]
    drawn_cat = draw(account, context, api, subject="cat", mix=[{"subject": "dog-2"}])
    kept += [f"generations/{drawn_cat}/image-0.png", f"inference/output/{drawn_cat}.out"]
    own = furnish(account, "dog")
    account.s3.delete_object(Bucket=BUCKET, Key=own[0])  # with versions: leaves a marker and what it hides
    generations = [draw(account, context, api), draw(account, context, api, subject="cat", mix=[{"subject": "dog"}])]

    assert api.call("DELETE", "/v1/subjects/dog")[0] == 202
    assert delete(account, context) == {"batchItemFailures": []}

    assert everything(account) == sorted([*base, *kept])
    assert rows("SUBJECT#dog") == [row for row in rows("SUBJECT#dog") if row.startswith("SUBJECT#dog-2 ")]
    status, body = api.call("GET", "/v1/subjects/dog")
    assert (status, body["error"]["code"]) == (404, "unknown_subject")
    assert "deleted at 20" in body["error"]["cause"]
    assert [subject["subject"] for subject in api.call("GET", "/v1/subjects")[1]["subjects"]] == ["cat", "dog-2"]
    for generation in generations:
        assert api.call("GET", f"/v1/generations/{generation}")[0] == 404
        left = clients.client("dynamodb").get_item(
            TableName=TABLE, Key={name: {"S": value} for name, value in generation_item(generation)._asdict().items()}
        )["Item"]
        assert not {"row", "ending", "owner"} & left.keys()
    assert api.call("GET", f"/v1/generations/{drawn_cat}")[1]["status"] == "succeeded"
    record = Deletions(TABLE).latest("dog")
    assert isinstance(record, Deletion)
    versions_of_own = 2 * len(own) + 1 if versions else len(own) - 1
    assert (record.requested_by, record.objects) == (ARTIST, versions_of_own + 2 * len(generations))
    assert Deletions(TABLE).latest("cat") is None


def test_more_than_one_call_can_delete_goes(account: Account) -> None:
    for index in range(1001):
        account.put(f"snapshots/dog/{index}", b"")
    assert DataBucket(BUCKET).erase("snapshots/dog/") == 1001
    assert account.keys("snapshots/") == []


def test_an_object_that_would_not_go_is_not_passed_over(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    account.put("snapshots/dog/a", b"")
    bucket = DataBucket(BUCKET)
    refusal = {"Errors": [{"Key": "snapshots/dog/a", "Code": "AccessDenied", "Message": "no"}]}
    monkeypatch.setattr(bucket._s3, "delete_objects", lambda **_: refusal)
    with pytest.raises(InternalError, match="AccessDenied"):
        bucket.erase("snapshots/")


def test_a_subject_that_is_being_deleted_cannot_be_drawn(account: Account, api: Api, endpoint: Endpoint) -> None:
    host("dog")
    host("cat")
    for owner in (ARTIST, "arn:aws:iam::123456789012:user/other"):
        status, body = api.call("DELETE", "/v1/subjects/dog", owner=owner)
        subject = Subject.model_validate(body)
        assert (status, subject.status, subject.ready) == (202, "deleting", False)
    assert api.call("GET", "/v1/subjects")[1]["subjects"][1]["status"] == "deleting"
    for asked in (ASK, ASK | {"subject": "cat", "mix": [{"subject": "dog"}]}):
        status, body = api.draw(asked)
        assert (status, body["error"]["code"]) == (409, "subject_not_ready")
        assert "deleted" in body["error"]["cause"]
    assert endpoint.requests == []
    queue = clients.client("sqs").get_queue_attributes(
        QueueUrl=account.deletion_queue_url, AttributeNames=["ApproximateNumberOfMessages"]
    )
    assert queue["Attributes"]["ApproximateNumberOfMessages"] == "2"


def test_the_first_who_asked_is_recorded(account: Account, context: Context, api: Api) -> None:
    host("dog")
    for owner in (ARTIST, "arn:aws:iam::123456789012:user/other"):
        api.call("DELETE", "/v1/subjects/dog", owner=owner)
    assert delete(account, context) == {"batchItemFailures": []}  # the second message finds nothing any more
    record = Deletions(TABLE).latest("dog")
    assert record is not None
    assert record.requested_by == ARTIST


@pytest.mark.parametrize(("name", "owner", "status"), [("nobody", ARTIST, 404), ("dog", None, 401)])
def test_what_cannot_be_deleted(account: Account, api: Api, name: str, owner: str | None, status: int) -> None:
    host("dog")
    assert api.call("DELETE", f"/v1/subjects/{name}", owner=owner)[0] == status
    assert not Deletions(TABLE).is_requested("dog")
    assert rows("SUBJECTS") == ["SUBJECTS dog"]
    assert "Messages" not in clients.client("sqs").receive_message(QueueUrl=account.deletion_queue_url)


def test_endpoints_are_told_first(
    account: Account, context: Context, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(account, "dog")
    erased: list[list[str]] = []
    erase = clients.client("s3").delete_objects

    def spy(**request: Any) -> Any:
        erased.append([item["Key"] for item in request["Delete"]["Objects"]])
        return erase(**request)

    monkeypatch.setattr(clients.client("s3"), "delete_objects", spy)
    api.call("DELETE", "/v1/subjects/dog")
    delete(account, context)
    assert set(erased[0]) == {promoted_key("dog"), version_manifest_key("dog", VERSION)}


def test_a_running_training_is_stopped_and_what_it_still_writes_goes(
    account: Account, context: Context, api: Api, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    host("dog")
    events.start_execution(account.state_machine_arn, RUN)
    asked: list[str] = []
    stopped: list[str] = []

    def is_running(job: str) -> bool:
        asked.append(job)
        if len(asked) in (2, 4):
            account.put(f"models/dog/{VERSION}/late-{len(asked)}", b"")
        return len(asked) <= 3  # asked before it is stopped, and in each round

    monkeypatch.setattr(leftovers, "is_running", is_running)
    monkeypatch.setattr(leftovers, "stop_job", stopped.append)
    api.call("DELETE", "/v1/subjects/dog")
    delete(account, context)
    assert [execution["status"] for execution in account.executions()] == ["ABORTED"]
    assert set(asked) == set(stopped) == {f"dreamdrop-dog-{VERSION}"}
    assert account.keys("models/") == []
    assert len(pauses) == 3  # two rounds met the job, the third what it had written last; the fourth found nothing


def test_nobody_is_told_of_a_failure_and_no_run_comes_back(account: Account, context: Context, api: Api) -> None:
    host("dog")
    subjects = Subjects(TABLE)
    api.call("DELETE", "/v1/subjects/dog")
    assert subjects.promote(RUN, OTHER_VERSION, "e", "tiny", "p") is None
    delete(account, context)
    for late in (subjects.is_running(RUN), subjects.succeed(RUN), subjects.fail(RUN, InternalError("x").report)):
        assert not late
    subjects.enter(RUN, "hosting")
    assert subjects.page("").subjects == []


def test_a_picture_that_comes_too_late_is_not_kept(account: Account, context: Context, api: Api) -> None:
    host("dog")
    generation = api.draw(ASK)[1]["id"]
    api.call("DELETE", "/v1/subjects/dog")
    delete(account, context)
    answer(account, context, generation)
    assert account.keys("generations/") + account.keys("inference/") == []


def test_a_picture_that_is_recorded_during_the_deletion_is_not_kept(
    account: Account, context: Context, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    host("dog")
    generation = api.draw(ASK)[1]["id"]
    write = DataBucket.write

    def slow(bucket: DataBucket, *what: Any) -> None:
        Generations(TABLE).forget(generation)
        write(bucket, *what)

    monkeypatch.setattr(DataBucket, "write", slow)
    answer(account, context, generation)
    assert account.keys("generations/") + account.keys("inference/") == []


def test_class_pictures_go_with_the_last_subject_that_uses_them(account: Account, context: Context, api: Api) -> None:
    shared, alone = "000000000000", "111111111111"
    for image_set in (shared, alone):
        account.put(f"{class_image_set_prefix(image_set)}class-0.png", b"")
    for subject, sets in (("dog", [shared, alone]), ("cat", [shared])):
        host(subject)
        Subjects(TABLE).use_class_images(subject, sets)
    for subject, left in (("dog", [f"{class_image_set_prefix(shared)}class-0.png"]), ("cat", [])):
        api.call("DELETE", f"/v1/subjects/{subject}")
        delete(account, context)
        assert account.keys("class-images/") == left
    assert rows(class_user_item("", "").pk) == []


def test_the_same_photos_dropped_again_are_a_new_subject(account: Account, context: Context, api: Api) -> None:
    files = {"a.png": photo(), "dataset_info.json": INFO}
    names = []
    for _ in range(3):
        account.drop("dog", files)
        for _ in range(2):
            take(context, dataset_prefix("dog") + "a.png")
        names.append(Subjects(TABLE).newest_run_id("dog"))
        api.call("DELETE", "/v1/subjects/dog")
        delete(account, context)
    assert len(set(names)) == 3
    assert {execution["name"] for execution in account.executions()} == set(names)
    assert rows("SUBJECT#dog") == []


def test_what_is_dropped_during_the_deletion_waits(account: Account, context: Context, api: Api) -> None:
    host("dog")
    api.call("DELETE", "/v1/subjects/dog")
    account.drop("dog", {"a.png": photo()})
    with pytest.raises(Exception, match="being deleted"):
        take(context, dataset_prefix("dog") + "a.png")
    with pytest.raises(ClientError):  # one that looked a moment before the request
        Subjects(TABLE).take(DatasetTaken(subject="dog", dataset_id="0" * 12, run_id="dog-0"), datetime.now(UTC))
    assert account.executions() == []


def test_an_interrupted_deletion_goes_on_and_counts_on(
    account: Account, context: Context, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = furnish(account, "dog")
    api.call("DELETE", "/v1/subjects/dog")
    with monkeypatch.context() as patch:
        patch.setattr(Deletions, "finish", lambda *_: 1 / 0)
        with pytest.raises(Exception, match="division"):
            delete(account, context)
    assert seconds_until_back(account) == pytest.approx(120, abs=2)  # it was the second try
    assert api.call("DELETE", "/v1/subjects/dog")[0] == 202
    assert delete(account, context) == {"batchItemFailures": []}
    record = Deletions(TABLE).latest("dog")
    assert record is not None
    assert record.objects == len(keys)


def seconds_until_back(account: Account) -> float:
    """Of the message that was received last."""
    queue = sqs_backends[ACCOUNT][REGION].queues[account.deletion_queue_url.rpartition("/")[2]]
    return queue._messages[0].visible_at / 1000 - time.time()


def test_what_takes_longer_than_one_turn_is_put_in_line_again(
    account: Account, context: Context, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(account, "dog")
    api.call("DELETE", "/v1/subjects/dog")
    monkeypatch.setattr(delete_subject, "BREATHER_SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(leftovers, "is_running", lambda _job: True)
        patch.setattr(leftovers, "stop_job", lambda _job: None)
        context.remaining_ms = delete_subject.NEEDED_MS - 1
        assert delete(account, context) == {"batchItemFailures": []}
    assert api.call("GET", "/v1/subjects/dog")[1]["status"] == "deleting"
    context.remaining_ms = 900_000
    assert delete(account, context) == {"batchItemFailures": []}
    assert api.call("GET", "/v1/subjects/dog")[0] == 404


def test_a_subject_in_very_many_pictures_is_deleted_turn_by_turn(
    account: Account, context: Context, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    host("dog")
    generations = [draw(account, context, api) for _ in range(3)]
    api.call("DELETE", "/v1/subjects/dog")
    monkeypatch.setattr(delete_subject, "BREATHER_SECONDS", 0)
    forget = Generations.forget

    def slow(self: Generations, generation: str) -> list[str]:
        context.remaining_ms = delete_subject.NEEDED_MS - 1
        return forget(self, generation)

    monkeypatch.setattr(Generations, "forget", slow)
    for left in (2, 1, 0, 0):
        context.remaining_ms = 900_000
        assert delete(account, context) == {"batchItemFailures": []}
        assert len([row for row in rows("SUBJECT#dog") if "GENERATION#" in row]) == left
    assert api.call("GET", "/v1/subjects/dog")[0] == 404
    assert account.keys("generations/") == [], generations


@pytest.mark.parametrize("name", ["my_dog", "My Dog", "dög", "x" * 200])
def test_photos_under_a_name_that_was_refused_can_be_deleted(
    account: Account, context: Context, api: Api, name: str
) -> None:
    key = f"datasets/{name}/a.png"
    account.put(key, photo())
    take(context, key)
    assert api.call("DELETE", f"/v1/subjects/{name}")[0] == 202
    assert delete(account, context) == {"batchItemFailures": []}
    assert account.keys("datasets/") == []
    assert api.call("GET", f"/v1/subjects/{name}")[0] == 404


def test_two_do_not_delete_at_once(account: Account, context: Context, api: Api) -> None:
    furnish(account, "dog")
    api.call("DELETE", "/v1/subjects/dog")
    assert Deletions(TABLE).begin("dog", 60)
    assert delete(account, context) == {"batchItemFailures": []}
    assert api.call("GET", "/v1/subjects/dog")[1]["status"] == "deleting"
    Deletions(TABLE).pause("dog")
    assert Deletions(TABLE).begin("dog", -1)
    assert Deletions(TABLE).begin("dog", 60)  # the lease before has run out


def test_the_contract_tells_of_it(api: Api) -> None:
    document = api.call("GET", "/v1/openapi.json", owner=None)[1]
    described = document["paths"]["/v1/subjects/{subject}"]["delete"]
    assert described["parameters"][0]["name"] == "subject"
    assert {"202", "404"} <= described["responses"].keys()
    assert "deleting" in json.dumps(document["components"]["schemas"]["Subject"])
