"""The HTTP API and the end of a generation, against moto; the endpoint itself is recorded, not run."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
import requests
from botocore.exceptions import ClientError

from contracts.artifact import Artifact, TrainingSummary, VersionManifest
from contracts.errors import EmptyDataset
from contracts.generation import (
    Generation,
    GenerationRequest,
    InferenceAnswer,
    InferencePayload,
    InferenceTimings,
    PictureSource,
)
from contracts.pipeline import DatasetTaken, EndpointNotice, Subject
from contracts.progress import TrainingProgress
from contracts.storage import progress_key, source_prefix, version_manifest_key, version_prefix
from contracts.training import Hosting, Hyperparameters
from lambdas.adapters import clients, data_bucket, hosting
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.table import Generations, Subjects
from lambdas.api import app, record_generation
from tests.integration.conftest import BUCKET, TABLE, Account, Context, photo

VERSION = "0123456789ab-1"
OLDER = "ba9876543210-1"
ARTIST = "arn:aws:iam::123456789012:user/artist"


class Endpoint:
    """Stands where SageMaker's endpoint stands: remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str]] = []
        self.accepted: list[str] = []
        self.woken: list[str] = []
        self.refuses: str | None = None
        self.status: str | None = "InService"

    def describe(self, endpoint_name: str) -> dict[str, str] | None:
        return {"EndpointName": endpoint_name, "EndpointStatus": self.status} if self.status else None

    def submit(self, endpoint_name: str, generation_id: str, body: str, accept: str) -> None:
        if self.refuses:
            raise ClientError({"Error": {"Code": self.refuses, "Message": "no"}}, "InvokeEndpointAsync")
        self.requests.append((endpoint_name, generation_id, body))
        self.accepted.append(accept)

    def payload(self) -> InferencePayload:
        """Of the only request."""
        [(_, _, body)] = self.requests
        return InferencePayload.model_validate_json(body)

    def wake(self, endpoint_name: str) -> bool:
        self.woken.append(endpoint_name)
        return True


@pytest.fixture
def endpoint(account: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    made = Endpoint()
    monkeypatch.setattr(hosting, "submit", made.submit)
    monkeypatch.setattr(hosting, "wake", made.wake)
    monkeypatch.setattr(hosting, "describe", made.describe)
    host("dog")
    yield made


def host(subject: str, version: str = VERSION, base_model: str = "tiny", hosting: Hosting = "shared") -> None:
    subjects = Subjects(TABLE)
    dataset = version.partition("-")[0]
    run = DatasetTaken(subject=subject, dataset_id=dataset, run_id=f"{subject}-{dataset}")
    subjects.take(run, datetime.now(UTC))
    subjects.enter(run, "training", version=version)
    endpoint_name = f"dreamdrop-{base_model}" if hosting == "shared" else f"dreamdrop--{subject}"
    subjects.promote(run, version, endpoint_name, base_model, f"a photo of sks {subject}", hosting)


def publish(account: Account, subject: str, version: str, base_model: str = "tiny") -> None:
    summary = TrainingSummary(
        steps=1, seconds=1, first_loss=1, last_loss=1, held_out_before=1, held_out_after=1, samples=[]
    )
    artifact = Artifact(
        method="lora", base_model=base_model, base_model_checksum="c", instance_prompt="p", class_prompt=None,
        resolution=64, hyperparameters=Hyperparameters(), training=summary, versions={}, files=[],
    )  # fmt: skip
    manifest = VersionManifest(
        subject=subject, version=version, prefix=version_prefix(subject, version), dataset_id=version.partition("-")[0],
        training_job="j", published_at=datetime.now(UTC), artifact=artifact,
    )  # fmt: skip
    account.put(version_manifest_key(subject, version), manifest.model_dump_json().encode())


class Api:
    def __init__(self, context: Context) -> None:
        self.context = context

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        owner: str | None = ARTIST,
        claims: dict[str, str] | None = None,
        **headers: str,
    ) -> tuple[int, Any]:
        """As the authorizer passes it on: of a signed request, or with the claims of a token."""
        authorizer = {"authorizer": {"iam": {"userArn": owner}}} if owner else {}
        if claims is not None:
            authorizer = {"authorizer": {"jwt": {"claims": claims, "scopes": None}}}
        event = {
            "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": "", "headers": headers,
            "requestContext": {"http": {"method": method, "path": path}, "requestId": "r-1", "stage": "$default",
                               "domainName": "api.example", **authorizer},
            "body": body if isinstance(body, str) or body is None else json.dumps(body), "isBase64Encoded": False,
        }  # fmt: skip
        answer = app.handler(event, self.context)
        content = answer["body"]
        return answer["statusCode"], json.loads(content) if content.startswith("{") else content

    def draw(self, body: Any, **more: Any) -> tuple[int, Any]:
        return self.call("POST", "/v1/generations", body, **more)


@pytest.fixture
def api(context: Context) -> Api:
    return Api(context)


ASK = {"subject": "dog", "prompt": "a photo of sks dog on the moon", "seed": 7, "num_images_per_prompt": 2}


def notice(generation_id: str, **more: Any) -> dict[str, Any]:
    message = {
        "awsRegion": "us-east-1", "eventName": "InferenceResult", "eventSource": "aws:sagemaker", "eventVersion": "1.0",
        "receivedTime": "2026-01-01T00:00:00.000Z", "eventTime": "2026-01-01T00:00:05.000Z",
        "inferenceId": generation_id, "invocationStatus": "Completed",
        "requestParameters": {"endpointName": "dreamdrop-tiny"}, **more,
    }  # fmt: skip
    return {
        "messageId": "m-1", "receiptHandle": "h", "body": json.dumps(message), "attributes": {},
        "messageAttributes": {}, "md5OfBody": "", "eventSource": "aws:sqs", "eventSourceARN": "a", "awsRegion": "r",
    }  # fmt: skip


def finish(account: Account, context: Context, generation_id: str, seeds: list[int], **more: Any) -> None:
    images = [base64.b64encode(photo()).decode() for _ in seeds]
    answer = InferenceAnswer(
        generated_images=images,
        prompt="p",
        seeds=seeds,
        timings=InferenceTimings(load_ms=1000, compute_ms=2500),
        **more,
    )
    account.put("inference/output/x.out", answer.model_dump_json().encode())
    location = {"responseParameters": {"outputLocation": f"s3://{BUCKET}/inference/output/x.out"}}
    assert record_generation.handler({"Records": [notice(generation_id, **location)]}, context) == {
        "batchItemFailures": []
    }


def test_a_prompt_becomes_pictures(account: Account, context: Context, endpoint: Endpoint, api: Api) -> None:
    status, accepted = api.draw(ASK)
    assert status == 202
    assert accepted["status"] == "queued"
    name, generation_id, body = endpoint.requests[0]
    assert (name, generation_id) == ("dreamdrop-tiny", accepted["id"])
    payload = InferencePayload.model_validate_json(body)
    assert (payload.subject, payload.version, payload.seed) == ("dog", VERSION, 7)
    assert endpoint.woken == ["dreamdrop-tiny"]

    finish(account, context, generation_id, [7, 8])
    status, content = api.call("GET", f"/v1/generations/{generation_id}")
    done = Generation.model_validate(content)
    assert (status, done.status, [picture.seed for picture in done.images]) == (200, "succeeded", [7, 8])
    assert (done.timings.queued_ms, done.timings.load_ms, done.timings.compute_ms) == (1500, 1000, 2500)
    key = f"generations/{generation_id}/image-1.png"
    assert key in done.images[1].url
    assert account.get(key) == photo()


def test_every_field_of_the_request_reaches_the_container(account: Account, endpoint: Endpoint, api: Api) -> None:
    account.put(source_prefix(ARTIST) + "0" * 32, photo())
    asked = {
        "subject": "dog", "prompt": ["a", "b"], "negative_prompt": ["c", "d"], "width": 64, "height": 72, "seed": 3,
        "num_images_per_prompt": 2, "num_inference_steps": 9, "guidance_scale": 3.5, "scheduler": "euler_a",
        "lora_scale": 0.8, "source_image": source_prefix(ARTIST) + "0" * 32, "strength": 0.5, "upscale": 2,
    }  # fmt: skip
    assert api.draw(asked)[0] == 202
    assert json.loads(endpoint.requests[0][2]) == asked | {"version": VERSION}


def test_an_endpoint_of_before_the_last_deployment_is_sent_no_field_that_was_left_open(
    endpoint: Endpoint, api: Api
) -> None:
    api.draw({"subject": "dog", "prompt": "p", "seed": 3})
    assert json.loads(endpoint.requests[0][2]) == {"subject": "dog", "prompt": "p", "seed": 3, "version": VERSION}


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_the_format_is_that_of_endpoint_file_and_header(
    account: Account, context: Context, endpoint: Endpoint, api: Api, form: str
) -> None:
    _, accepted = api.draw(ASK | {"format": form})
    assert endpoint.accepted == [f"application/json;{form}"]
    finish(account, context, accepted["id"], [7, 8])
    keys = [f"generations/{accepted['id']}/image-{index}.{form}" for index in range(2)]
    assert account.keys("generations/") == keys
    assert [account.head(key)["ContentType"] for key in keys] == [f"image/{form}"] * 2
    assert all(key in picture["url"] for key, picture in zip(keys, picture_list(api, accepted["id"]), strict=True))


def picture_list(api: Api, generation_id: str) -> list[dict[str, Any]]:
    pictures: list[dict[str, Any]] = api.call("GET", f"/v1/generations/{generation_id}")[1]["images"]
    return pictures


def test_a_picture_in_the_bucket_tells_how_it_came_about(
    account: Account, context: Context, endpoint: Endpoint, api: Api
) -> None:
    host("cat")
    asked = {"prompt": "a sks dog 🐕 and a cat", "mix": [{"subject": "cat"}], "scheduler": "ddim"}
    for further, told in ((asked, {"scheduler": "ddim"}), ({}, {})):
        _, accepted = api.draw(ASK | further)
        finish(account, context, accepted["id"], [7, 8])
        subjects = f"dog@{VERSION},cat@{VERSION}" if further else f"dog@{VERSION}"
        origin = {"generation": accepted["id"], "seed": "8", "subjects": subjects} | told
        assert account.head(f"generations/{accepted['id']}/image-1.png")["Metadata"] == origin


def test_a_source_picture_is_uploaded_and_then_drawn_from(account: Account, endpoint: Endpoint, api: Api) -> None:
    status, content = api.call("POST", "/v1/sources")
    offered = PictureSource.model_validate(content)
    assert status == 201
    assert offered.source_image.startswith(source_prefix(ARTIST))
    assert api.call("POST", "/v1/sources")[1]["source_image"] != offered.source_image
    assert requests.put(offered.upload_url, data=photo(), timeout=5).status_code == 200
    assert account.get(offered.source_image) == photo()
    assert api.draw(ASK | {"source_image": offered.source_image})[0] == 202
    assert endpoint.payload().source_image == offered.source_image


def test_the_source_picture_of_another_owner_does_not_exist(endpoint: Endpoint, api: Api) -> None:
    theirs = api.call("POST", "/v1/sources", owner=ARTIST + "2")[1]["source_image"]
    status, body = api.draw(ASK | {"source_image": theirs})
    assert (status, body["error"]["code"]) == (400, "invalid_request")
    assert "source_image" in body["error"]["cause"]
    assert endpoint.requests == []


def test_a_source_picture_that_was_never_uploaded_does_not_exist(endpoint: Endpoint, api: Api) -> None:
    offered = api.call("POST", "/v1/sources")[1]["source_image"]
    status, body = api.draw(ASK | {"source_image": offered})
    assert (status, body["error"]["code"]) == (400, "invalid_request")
    assert "source_image" in body["error"]["cause"]
    assert endpoint.requests == []


@pytest.mark.parametrize("mix", [["dog"], ["cat", "cat"]])
def test_nobody_is_in_a_picture_twice(endpoint: Endpoint, api: Api, mix: list[str]) -> None:
    status, body = api.draw(ASK | {"mix": [{"subject": name} for name in mix]})
    assert (status, body["error"]["code"]) == (400, "invalid_request")
    assert f"{mix[0]} is in the picture twice" in body["error"]["cause"]


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


def test_a_version_may_be_named_and_must_have_been_published(account: Account, endpoint: Endpoint, api: Api) -> None:
    status, body = api.draw(ASK | {"version": OLDER})
    assert (status, body["error"]["code"]) == (404, "unknown_subject")
    assert OLDER in body["error"]["cause"]
    publish(account, "dog", OLDER)
    _, accepted = api.draw(ASK | {"version": OLDER})
    assert (accepted["version"], accepted["request"]["version"]) == (OLDER, OLDER)
    assert endpoint.payload().version == OLDER


def test_a_version_of_another_base_model_is_not_sent_to_the_endpoint(
    account: Account, endpoint: Endpoint, api: Api
) -> None:
    publish(account, "dog", OLDER, base_model="former")
    status, body = api.draw(ASK | {"version": OLDER})
    assert (status, body["error"]["code"]) == (400, "invalid_request")
    assert "version" in body["error"]["cause"]
    assert "former" in body["error"]["cause"]


def test_mixed_subjects_reach_the_endpoint_with_their_versions(account: Account, endpoint: Endpoint, api: Api) -> None:
    host("cat")
    host("cow")
    publish(account, "cow", OLDER)
    mix = [{"subject": "cat", "lora_scale": 0.5}, {"subject": "cow", "version": OLDER}]
    _, accepted = api.draw(ASK | {"mix": mix})
    versions = [("cat", VERSION, 0.5), ("cow", OLDER, 1.0)]
    assert [(other.subject, other.version, other.lora_scale) for other in endpoint.payload().mix] == versions
    assert [other["version"] for other in accepted["request"]["mix"]] == [VERSION, OLDER]
    assert accepted["request"]["version"] == VERSION


@pytest.mark.parametrize(
    ("other", "code", "named"),
    [
        ({"subject": "fox"}, "unknown_subject", "fox"),
        ({"subject": "cub"}, "subject_not_ready", "cub"),
        ({"subject": "cow", "version": OLDER}, "unknown_subject", OLDER),
        ({"subject": "elk"}, "invalid_request", "mix"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(
    endpoint: Endpoint, api: Api, other: dict[str, str], code: str, named: str
) -> None:
    host("cat")
    host("cow")
    host("elk", base_model="other")
    Subjects(TABLE).take(DatasetTaken(subject="cub", dataset_id="0" * 12, run_id="cub-0"), datetime.now(UTC))
    _, body = api.draw(ASK | {"mix": [{"subject": "cat"}, other]})
    assert body["error"]["code"] == code
    assert named in body["error"]["cause"]
    assert endpoint.requests == []


@pytest.mark.parametrize("prompt", ["A Red  Scarf", ["a dog", "a dog with a red scarf"]])
def test_a_prompt_with_a_blocked_word_is_refused(
    endpoint: Endpoint, api: Api, monkeypatch: pytest.MonkeyPatch, prompt: Any
) -> None:
    monkeypatch.setenv("BLOCKED_WORDS", "red scarf,hat")
    status, body = api.draw(ASK | {"prompt": prompt, "num_images_per_prompt": 1})
    assert (status, body["error"]["code"]) == (422, "prompt_rejected")
    assert endpoint.requests == []
    assert api.draw({"subject": "dog", "prompt": "a dog", "negative_prompt": "red scarf"})[0] == 202


def test_a_seed_is_picked_and_told_when_none_is_given(endpoint: Endpoint, api: Api) -> None:
    _, one = api.draw({"subject": "dog", "prompt": "p"})
    _, two = api.draw({"subject": "dog", "prompt": "p"})
    assert one["request"]["seed"] != two["request"]["seed"]


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


def test_an_explicit_null_is_the_same_request(endpoint: Endpoint, api: Api) -> None:
    asked = ASK | {"seed": None}
    first, second = (api.draw(asked, **{"idempotency-key": "k-1"}) for _ in range(2))
    assert (first[0], second[0]) == (202, 202)
    assert first[1]["id"] == second[1]["id"]


def test_prompts_that_do_not_fit_into_one_request_are_refused_before_a_row_is_written(
    endpoint: Endpoint, api: Api
) -> None:
    prompts = ["😀" * 2000] * 8
    asked = {"subject": "dog", "prompt": prompts, "negative_prompt": prompts}
    status, body = api.draw(asked, **{"idempotency-key": "k-1"})
    assert (status, body["error"]["code"]) == (400, "invalid_request")
    assert api.draw(ASK, **{"idempotency-key": "k-1"})[0] == 202


def test_the_same_key_for_another_request_is_a_conflict(endpoint: Endpoint, api: Api) -> None:
    api.draw(ASK, **{"idempotency-key": "k-1"})
    status, body = api.draw(ASK | {"prompt": "other"}, **{"idempotency-key": "k-1"})
    assert (status, body["error"]["code"]) == (409, "idempotency_conflict")


def test_the_same_key_of_another_owner_is_another_generation(endpoint: Endpoint, api: Api) -> None:
    mine = api.draw(ASK, **{"idempotency-key": "k-1"})[1]["id"]
    theirs = api.draw(ASK, owner=ARTIST + "2", **{"idempotency-key": "k-1"})[1]["id"]
    assert mine != theirs


def test_another_owners_generation_does_not_exist(endpoint: Endpoint, api: Api) -> None:
    mine = api.draw(ASK)[1]["id"]
    status, body = api.call("GET", f"/v1/generations/{mine}", owner=ARTIST + "2")
    assert (status, body["error"]["code"]) == (404, "unknown_generation")


@pytest.mark.parametrize(
    "route",
    ["GET /v1/subjects", "GET /v1/subjects/dog", "GET /v1/generations/0", "POST /v1/generations", "POST /v1/sources"],
)
def test_nobody_is_let_in_by_a_header(endpoint: Endpoint, api: Api, route: str) -> None:
    status, body = api.call(*route.split(), owner=None, **{"x-user": "root", "authorization": "anything"})
    assert (status, body["error"]["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prompt": ""}, "prompt"), ({"prompt": "x" * 10_000}, "prompt"), ({"prompt": []}, "prompt"),
        ({"prompt": 3}, "prompt"), ({"width": 500}, "width"), ({"width": 63}, "width"), ({"height": 0}, "height"),
        ({"height": 4096}, "height"), ({"seed": "abc"}, "seed"), ({"seed": -1}, "seed"), ({"seed": 2**32}, "seed"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt"), ({"num_images_per_prompt": 99}, "num_images"),
        ({"num_inference_steps": 0}, "num_inference_steps"), ({"guidance_scale": "NaN"}, "guidance_scale"),
        ({"scheduler": "warp"}, "scheduler"), ({"subject": "../x"}, "subject"), ({"subject": None}, "subject"),
        ({"colour": "red"}, "colour"), ({"prompt": ["a"], "negative_prompt": "b"}, "negative_prompt"),
        ({"strength": 0.5}, "strength"), ({"upscale": 5}, "upscale"), ({"width": 1024, "upscale": 4}, "upscale"),
        ({"source_image": "base-models/x"}, "source_image"), ({"format": "gif"}, "format"),
        ({"version": "v"}, "version"), ({"lora_scale": 3}, "lora_scale"),
        ({"mix": [{"subject": "cat", "scale": 1}]}, "mix.0.scale"), ({"mix": [{"subject": "cat"}] * 4}, "mix"),
    ],
)  # fmt: skip
def test_a_bad_field_is_named(endpoint: Endpoint, api: Api, change: dict[str, Any], named: str) -> None:
    status, body = api.draw(ASK | change)
    assert (status, body["error"]["code"]) == (400, "invalid_request")
    assert named in body["error"]["cause"]
    assert "constrained" not in body["error"]["cause"]
    assert len(body["error"]["cause"]) < 500
    assert endpoint.requests == []


@pytest.mark.parametrize("body", ["[" * 10_000, '{"a":' * 10_000, "", "not json", "[]", "null", "3", '"text"', "{"])
def test_a_body_that_is_no_object_is_refused(endpoint: Endpoint, api: Api, body: str) -> None:
    status, answer = api.draw(body)
    assert (status, answer["error"]["code"]) == (400, "invalid_request")


def test_a_thousand_random_bodies_never_break_the_api(endpoint: Endpoint, api: Api) -> None:
    dice = random.Random(0)
    values = [None, True, -1, 10**30, 1.5, "", "x", [], {}, [None], {"a": 1}, "\x00", "💥", float("inf")]
    fields = [*GenerationRequest.model_fields, "extra"]
    for _ in range(1000):
        body = {field: dice.choice(values) for field in dice.sample(fields, dice.randrange(len(fields)))}
        status, _ = api.draw(body)
        assert 400 <= status < 500, body


def test_an_unknown_subject_and_one_that_is_not_ready(endpoint: Endpoint, api: Api) -> None:
    assert api.draw(ASK | {"subject": "cat"})[1]["error"]["code"] == "unknown_subject"
    Subjects(TABLE).take(DatasetTaken(subject="cat", dataset_id="0" * 12, run_id="cat-0"), datetime.now(UTC))
    status, body = api.draw(ASK | {"subject": "cat"})
    assert (status, body["error"]["code"]) == (409, "subject_not_ready")
    report = EmptyDataset("no photo").report
    Subjects(TABLE).fail(DatasetTaken(subject="cat", dataset_id="0" * 12, run_id="cat-0"), report)
    failed = api.draw(ASK | {"subject": "cat"})[1]["error"]
    assert (failed["code"], failed["cure"]) == ("subject_not_ready", report.cure)
    assert api.call("GET", "/v1/subjects/cat")[1]["error"] == report.model_dump()


def test_a_table_that_throttles_for_long_is_told_as_a_503_that_may_be_tried_again(
    endpoint: Endpoint, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def throttled(*_: Any) -> None:
        raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "Rate exceeded"}}, "GetItem")

    monkeypatch.setattr(Subjects, "hosted", throttled)
    status, body = api.draw(ASK)
    assert (status, body["error"]["code"]) == (503, "unavailable")


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


@pytest.mark.parametrize(
    ("asked", "named"),
    [({"mix": [{"subject": "cat"}]}, "mix"), ({"version": OLDER}, "version"), ({"source_image": ""}, "source_image")],
)
def test_what_a_dedicated_endpoint_cannot_do_is_refused(
    account: Account, endpoint: Endpoint, api: Api, asked: dict[str, Any], named: str
) -> None:
    host("cat")
    host("fox", hosting="dedicated")
    publish(account, "fox", OLDER)
    if named == "source_image":
        asked = {"source_image": api.call("POST", "/v1/sources")[1]["source_image"]}
        account.put(asked["source_image"], photo())
    status, body = api.draw(ASK | {"subject": "fox"} | asked)
    assert (status, body["error"]["code"]) == (400, "invalid_request")
    assert body["error"]["cause"].startswith(f"{named}: fox has an endpoint of its own")
    assert api.draw(ASK | {"mix": [{"subject": "fox"}]})[1]["error"]["cause"].startswith("mix: fox has an endpoint")
    assert api.draw(ASK | {"subject": "fox", "version": VERSION})[0] == 202
    assert [name for name, _, _ in endpoint.requests] == ["dreamdrop--fox"]


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


@pytest.mark.parametrize(("region", "host"), [("us-east-1", "s3"), ("eu-west-1", "s3.eu-west-1")])
def test_a_link_has_the_newer_signature_and_the_regions_own_host(
    account: Account, monkeypatch: pytest.MonkeyPatch, region: str, host: str
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    monkeypatch.setattr(data_bucket, "client", clients.client.__wrapped__)
    bucket = DataBucket(BUCKET)
    for link in (bucket.link("generations/x/image-0.png", 60), bucket.upload_link("sources/x/y", 60)):
        assert link.startswith(f"https://{BUCKET}.{host}.amazonaws.com/")
        assert "X-Amz-Signature" in link


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


def test_subjects_are_listed_and_shown_with_progress(account: Account, endpoint: Endpoint, api: Api) -> None:
    progress = TrainingProgress(phase="training", step=5, total_steps=20, loss=0.5, updated_at=datetime.now(UTC))
    account.put(progress_key("dog", "0123456789ab"), progress.model_dump_json().encode())
    status, listed = api.call("GET", "/v1/subjects")
    assert (status, [subject["subject"] for subject in listed["subjects"]]) == (200, ["dog"])
    one = Subject.model_validate(api.call("GET", "/v1/subjects/dog")[1])
    assert one.ready
    assert one.run is not None
    assert one.run.progress == progress
    for unknown in ("cat", "a" * 5000):
        assert api.call("GET", f"/v1/subjects/{unknown}")[1]["error"]["code"] == "unknown_subject"


def test_page_and_document_are_open_to_all(endpoint: Endpoint, api: Api) -> None:
    status, page = api.call("GET", "/", owner=None)
    assert status == 200
    assert "<html" in page
    status, document = api.call("GET", "/v1/openapi.json", owner=None)
    assert status == 200
    assert {"GenerationRequest", "PictureSource"} <= document["components"]["schemas"].keys()
    assert document["paths"]["/v1/sources"]["post"]["responses"].keys() >= {"201", "401"}
    assert "prompt_rejected" in document["paths"]["/v1/generations"]["post"]["responses"]["422"]["description"]
    assert api.call("GET", "/nowhere")[0] == 404


def test_the_owner_of_a_token_is_issuer_and_subject(endpoint: Endpoint, api: Api) -> None:
    ada = {"iss": "https://login.example", "sub": "ada", "aud": "dreamdrop", "email": "ada@example.org"}
    status, accepted = api.draw(ASK, claims=ada)
    assert status == 202
    path = f"/v1/generations/{accepted['id']}"
    assert api.call("GET", path, claims=ada)[0] == 200
    assert api.call("GET", path, claims=ada | {"email": "new@example.org"})[0] == 200
    strangers = ({"sub": "bob"}, {"iss": "https://other.example"}, {"sub": "ADA"})
    for stranger in strangers:  # whatever they say of themselves elsewhere
        claims = ada | stranger
        assert api.call("GET", path, claims=claims, **{"x-user": "ada", "x-amzn-oidc-identity": "ada"})[0] == 404
    assert api.call("GET", path, owner="ada")[0] == 404
    assert api.call("GET", path, owner="https://login.example#ada/session")[0] == 404


@pytest.mark.parametrize("claims", [{}, {"iss": "https://login.example"}, {"sub": "ada"}, {"iss": "", "sub": ""}])
def test_a_token_that_names_nobody_is_nobodys(endpoint: Endpoint, api: Api, claims: dict[str, str]) -> None:
    status, body = api.draw(ASK, claims=claims, authorization="Bearer t")
    assert (status, body["error"]["code"]) == (401, "unauthenticated")
    assert endpoint.requests == []


@pytest.mark.parametrize(("issuer", "scheme"), [(None, "sigv4"), ("https://login.example", "oidc")])
def test_the_contract_names_what_the_deployment_asks_of_callers(
    account: Account, api: Api, monkeypatch: pytest.MonkeyPatch, issuer: str | None, scheme: str
) -> None:
    if issuer:
        monkeypatch.setenv("OIDC_ISSUER", issuer)
    _, document = api.call("GET", "/v1/openapi.json", owner=None)
    assert document["security"] == [{scheme: []}]
    assert set(document["components"]["securitySchemes"]) == {scheme}


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
