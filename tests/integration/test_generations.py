"""The way of a generation, from its line to its end, against moto; the endpoint itself is recorded, not run."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

from contracts.pipeline import EndpointNotice
from lambdas.adapters import clients, hosting
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.table import Generations
from lambdas.api import record_generation
from tests.integration.account import BUCKET, TABLE, Account, Context
from tests.integration.api_parts import ARTIST, ASK, OLDER, VERSION, Api, Endpoint, finish, host, notice


def queue_position(api: Api, generation_id: str) -> Any:
    return api.call("GET", f"/v1/generations/{generation_id}")[1]["queue_position"]


def test_who_waits_is_told_how_many_are_before(
    account: Account, context: Context, endpoint: Endpoint, api: Api
) -> None:
    host("cat", base_model="other")
    first, second, third = (api.draw(ASK | {"seed": seed})[1]["id"] for seed in range(3))
    elsewhere = api.draw(ASK | {"subject": "cat"})[1]["id"]
    assert [queue_position(api, one) for one in (first, second, third, elsewhere)] == [0, 1, 2, 0]
    finish(account, context, first, [0, 1])
    assert api.call("DELETE", f"/v1/generations/{second}")[0] == 200
    assert [queue_position(api, one) for one in (first, second, third)] == [None, None, 0]
    assert waiting_rows() == 2


def waiting_rows() -> int:
    found = clients.client("dynamodb").scan(TableName=TABLE)["Items"]
    return sum(item["pk"]["S"].startswith("ENDPOINT#") for item in found)


def test_a_cancelled_request_stays_cancelled_and_its_pictures_are_thrown_away(
    account: Account, context: Context, endpoint: Endpoint, api: Api
) -> None:
    accepted = api.draw(ASK)[1]["id"]
    for _ in range(2):
        status, body = api.call("DELETE", f"/v1/generations/{accepted}")
        assert (status, body["status"]) == (200, "cancelled")
        assert body["finished_at"]
    finish(account, context, accepted, [7, 8])
    assert account.keys("generations/") == account.keys("inference/") == []
    assert api.call("GET", f"/v1/generations/{accepted}")[1]["status"] == "cancelled"


def test_a_request_that_is_cancelled_while_it_is_recorded_keeps_no_pictures(
    account: Account, context: Context, endpoint: Endpoint, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = api.draw(ASK)[1]["id"]
    write = DataBucket.write

    def write_and_be_cancelled(bucket: DataBucket, *arguments: Any) -> None:
        write(bucket, *arguments)
        api.call("DELETE", f"/v1/generations/{accepted}")

    monkeypatch.setattr(DataBucket, "write", write_and_be_cancelled)
    finish(account, context, accepted, [7, 8])
    assert account.keys("generations/") == account.keys("inference/") == []


def test_an_answer_that_is_told_again_is_not_recorded_again(
    account: Account, context: Context, endpoint: Endpoint, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = api.draw(ASK)[1]["id"]
    finish(account, context, accepted, [7, 8])
    monkeypatch.setattr(DataBucket, "write", lambda *_: pytest.fail("a picture is written again"))
    finish(account, context, accepted, [7, 8])
    assert api.call("GET", f"/v1/generations/{accepted}")[1]["status"] == "succeeded"


def test_only_the_owner_cancels_and_only_what_is_queued(
    account: Account, context: Context, endpoint: Endpoint, api: Api
) -> None:
    accepted = api.draw(ASK)[1]["id"]
    path = f"/v1/generations/{accepted}"
    assert api.call("DELETE", path, owner=ARTIST + "2")[0] == 404
    finish(account, context, accepted, [7, 8])
    status, body = api.call("DELETE", path)
    assert (status, body["error"]["code"]) == (409, "generation_ended")
    assert api.call("GET", path)[1]["status"] == "succeeded"


def test_the_same_key_gives_the_same_generation_and_asks_once(endpoint: Endpoint, api: Api) -> None:
    unseeded = {key: value for key, value in ASK.items() if key != "seed"}
    answers = [api.draw(unseeded, **{"idempotency-key": "k-1"})[1] for _ in range(3)]
    assert len({answer["id"] for answer in answers}) == 1
    assert len({answer["request"]["seed"] for answer in answers}) == 1
    assert len(endpoint.requests) == 1


def test_what_was_chosen_for_the_first_request_holds_for_its_repetition(
    account: Account, endpoint: Endpoint, api: Api
) -> None:
    host("cat")
    host("elk", version=OLDER)
    asked = {"subject": "dog", "prompt": "p", "mix": [{"subject": "cat"}]}
    first = api.draw(asked, **{"idempotency-key": "k-1"})[1]
    for subject in ("dog", "cat"):  # trained again meanwhile
        host(subject, version=OLDER)
    status, again = api.draw(asked, **{"idempotency-key": "k-1"})
    assert (status, again) == (202, first)
    assert len(endpoint.requests) == 1
    for different in (
        asked | {"mix": []}, asked | {"mix": [{"subject": "cat"}, {"subject": "elk"}]}, asked | {"version": OLDER},
        asked | {"mix": [{"subject": "cat", "version": OLDER}]}, asked | {"upscale": 2}, asked | {"format": "webp"},
    ):  # fmt: skip
        assert api.draw(different, **{"idempotency-key": "k-1"})[0] == 409, different


def test_the_same_key_for_another_request_is_a_conflict(endpoint: Endpoint, api: Api) -> None:
    api.draw(ASK, **{"idempotency-key": "k-1"})
    status, body = api.draw(ASK | {"prompt": "other"}, **{"idempotency-key": "k-1"})
    assert (status, body["error"]["code"]) == (409, "idempotency_conflict")


def test_the_same_key_of_another_owner_is_another_generation(endpoint: Endpoint, api: Api) -> None:
    mine = api.draw(ASK, **{"idempotency-key": "k-1"})[1]["id"]
    theirs = api.draw(ASK, owner=ARTIST + "2", **{"idempotency-key": "k-1"})[1]["id"]
    assert mine != theirs


def test_an_endpoint_that_refuses_is_our_fault_and_nothing_stays_queued(endpoint: Endpoint, api: Api) -> None:
    endpoint.refuses = "ValidationException"
    status, body = api.draw(ASK, **{"idempotency-key": "k"})
    assert (status, body["error"]["code"]) == (500, "generation_failed")
    endpoint.refuses = None
    status, again = api.draw(ASK, **{"idempotency-key": "k"})
    assert again["status"] == "failed"


@pytest.mark.parametrize("status", [None, "Creating", "Failed"])
def test_a_request_for_an_endpoint_that_is_not_there_waits_for_it(
    account: Account, endpoint: Endpoint, api: Api, status: str | None
) -> None:
    endpoint.refuses, endpoint.status = "ValidationError", status
    for _ in range(2):
        answered, body = api.draw(ASK, **{"idempotency-key": "k"})
        assert (answered, body["status"]) == (202, "queued")
    received = clients.client("sqs").receive_message(QueueUrl=account.hosting_queue_url, MaxNumberOfMessages=10)
    notices = [EndpointNotice.model_validate_json(message["Body"]) for message in received["Messages"]]
    assert notices == [EndpointNotice(endpoint_name="dreamdrop-tiny", subject="dog")] * 2
    assert queue_position(api, body["id"]) == 0


def test_the_version_that_was_drawn_is_told(account: Account, context: Context, endpoint: Endpoint, api: Api) -> None:
    """A request that waits during the update of a dedicated endpoint is drawn by the new version."""
    accepted = api.draw(ASK)[1]
    assert accepted["version"] == VERSION
    finish(account, context, accepted["id"], [7, 8], subjects=[f"dog@{OLDER}"])
    assert api.call("GET", f"/v1/generations/{accepted['id']}")[1]["version"] == OLDER
    [first, _] = account.keys("generations/")
    assert account.head(first)["Metadata"]["subjects"] == f"dog@{OLDER}"


def test_a_busy_endpoint_may_be_asked_again_with_the_same_key(endpoint: Endpoint, api: Api) -> None:
    endpoint.refuses = "ThrottlingException"
    status, body = api.draw(ASK, **{"idempotency-key": "k"})
    assert (status, body["error"]["code"]) == (503, "endpoint_busy")
    endpoint.refuses = None
    assert api.draw(ASK, **{"idempotency-key": "k"})[0] == 202
    assert len(endpoint.requests) == 1


def test_what_a_busy_endpoint_did_not_take_is_not_drawn_later_for_a_caller_who_has_no_key(
    endpoint: Endpoint, api: Api
) -> None:
    endpoint.refuses = "ThrottlingException"
    assert api.draw(ASK)[0] == 503
    assert waiting_rows() == 0
    assert api.draw(ASK, **{"idempotency-key": "k"})[0] == 503
    assert waiting_rows() == 1


def test_a_repetition_goes_to_the_endpoint_in_whose_line_the_request_waits(endpoint: Endpoint, api: Api) -> None:
    key = {"idempotency-key": "k"}
    endpoint.refuses = "ThrottlingException"
    assert api.draw(ASK, **key)[0] == 503
    host("dog", version=OLDER, hosting="dedicated")  # trained again meanwhile
    endpoint.refuses = None
    assert api.draw(ASK, **key)[0] == 202
    assert [name for name, _, _ in endpoint.requests] == ["dreamdrop-tiny"]


def test_a_repetition_for_an_endpoint_that_is_not_made_again_is_told(endpoint: Endpoint, api: Api) -> None:
    endpoint.refuses = "ThrottlingException"
    assert api.draw(ASK, **{"idempotency-key": "k"})[0] == 503
    host("dog", version=OLDER, hosting="dedicated")
    endpoint.refuses, endpoint.status = "ValidationError", None
    status, body = api.draw(ASK, **{"idempotency-key": "k"})
    assert (status, body["error"]["code"]) == (500, "generation_failed")
    assert waiting_rows() == 0


def test_a_crash_between_row_and_submission_is_made_good_by_the_retry(
    endpoint: Endpoint, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: str) -> None:
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(hosting, "submit", crash)
        api.draw(ASK, **{"idempotency-key": "k"})
    assert api.draw(ASK, **{"idempotency-key": "k"})[0] == 202
    assert len(endpoint.requests) == 1


def test_a_failed_generation_carries_the_containers_own_words(
    account: Account, context: Context, endpoint: Endpoint, api: Api
) -> None:
    generation_id = api.draw(ASK)[1]["id"]
    report = {"code": "out_of_memory", "cause": "Too large.", "cure": "Ask for less."}
    account.put("inference/failure/x-error.out", f"Received server error (500): '{json.dumps(report)}'".encode())
    failed = {
        "invocationStatus": "Failed", "failureReason": "ClientError",
        "responseParameters": {"failureLocation": f"s3://{BUCKET}/inference/failure/x-error.out"},
    }  # fmt: skip
    record_generation.handler({"Records": [notice(generation_id, **failed)]}, context)
    status, body = api.call("GET", f"/v1/generations/{generation_id}")
    assert (status, body["status"], body["error"]) == (200, "failed", report)


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        ("request expired (RequestTTLSeconds)", "expired", "generation_expired"),
        ("Received server error (500)", "failed", "generation_failed"),
        (None, "failed", "generation_failed"),
    ],
)
def test_a_bare_failure_notice_is_enough(
    context: Context, endpoint: Endpoint, api: Api, reason: str | None, status: str, code: str
) -> None:
    generation_id = api.draw(ASK)[1]["id"]
    bare = {"invocationStatus": "Failed", "failureReason": reason, "requestParameters": {}}
    record_generation.handler({"Records": [notice(generation_id, **bare)]}, context)
    _, body = api.call("GET", f"/v1/generations/{generation_id}")
    assert (body["status"], body["error"]["code"]) == (status, code)


def test_a_notice_cannot_point_outside_the_answers(
    account: Account, context: Context, endpoint: Endpoint, api: Api
) -> None:
    generation_id = api.draw(ASK)[1]["id"]
    account.put("secrets/x", b"{}")
    location = {"responseParameters": {"outputLocation": f"s3://{BUCKET}/secrets/x"}}
    record_generation.handler({"Records": [notice(generation_id, **location)]}, context)
    assert api.call("GET", f"/v1/generations/{generation_id}")[1]["status"] == "failed"


def test_a_second_notice_changes_nothing(account: Account, context: Context, endpoint: Endpoint, api: Api) -> None:
    generation_id = api.draw(ASK)[1]["id"]
    finish(account, context, generation_id, [7, 8])
    record_generation.handler({"Records": [notice(generation_id, invocationStatus="Failed")]}, context)
    assert api.call("GET", f"/v1/generations/{generation_id}")[1]["status"] == "succeeded"


def test_a_request_whose_notice_never_came_expires(endpoint: Endpoint, api: Api) -> None:
    generation_id = api.draw(ASK)[1]["id"]
    row = Generations(TABLE).get(generation_id)
    assert row is not None
    assert row.as_of(datetime.now(UTC)).status == "queued"
    late = row.as_of(datetime.now(UTC) + timedelta(days=1))
    assert late.status == "expired"
    assert late.error is not None


def test_a_sleeping_endpoint_is_woken(account: Account) -> None:
    sagemaker = boto3.client("sagemaker")
    variant = {"VariantName": "shared", "ModelName": "m", "InstanceType": "ml.g4dn.xlarge", "InitialInstanceCount": 1}
    sagemaker.create_model(ModelName="m", ExecutionRoleArn="arn:aws:iam::123456789012:role/role-of-the-model")
    sagemaker.create_endpoint_config(EndpointConfigName="c", ProductionVariants=[variant])
    sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="c")
    assert hosting.wake("e") is False
    sleeping = [{"VariantName": "shared", "DesiredInstanceCount": 0}]
    sagemaker.update_endpoint_weights_and_capacities(EndpointName="e", DesiredWeightsAndCapacities=sleeping)
    assert hosting.wake("e") is True
    assert hosting.wake("e") is False
