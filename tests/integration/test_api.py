"""The HTTP API and the end of a generation, against moto; the endpoint itself is recorded, not run."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest
import requests
from botocore.exceptions import ClientError

from contracts.errors import EmptyDataset
from contracts.generation import Generation, GenerationRequest, InferencePayload, PictureSource
from contracts.pipeline import DatasetTaken, Subject
from contracts.progress import TrainingProgress
from contracts.storage import progress_key, source_prefix
from lambdas.adapters import clients, data_bucket, table
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.table import Subjects
from tests.integration.account import BUCKET, TABLE, Account, Context, photo
from tests.integration.api_parts import ARTIST, ASK, OLDER, VERSION, Api, Endpoint, finish, host, publish


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
        ({"prompt": "  "}, "prompt"), ({"prompt": 3}, "prompt"), ({"width": 500}, "width"), ({"width": 63}, "width"),
        ({"height": 0}, "height"), ({"height": 4096}, "height"), ({"seed": "abc"}, "seed"), ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"), ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
        ({"num_images_per_prompt": 99}, "num_images"), ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"guidance_scale": "NaN"}, "guidance_scale"),
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


@pytest.mark.parametrize("body", [b'{"prompt": "\xff"}', b'{"prompt": "\xff"}'.decode(errors="replace")])
def test_a_body_that_is_no_text_is_refused(endpoint: Endpoint, api: Api, body: bytes | str) -> None:
    """Bytes are handed on; of a JSON content type API Gateway makes text of them, with what stands for no letter."""
    status, answer = api.draw(body)
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    assert "not UTF-8 text" in answer["error"]["cause"]


def test_a_body_in_bytes_is_read(endpoint: Endpoint, api: Api) -> None:
    assert api.draw(json.dumps(ASK).encode())[0] == 202


def test_a_field_of_trainings_is_just_unknown_among_those_of_pictures(endpoint: Endpoint, api: Api) -> None:
    assert api.draw(ASK | {"compute_fid": True})[1]["error"]["cause"] == "compute_fid: unknown field."


def test_a_thousand_random_bodies_never_break_the_api(endpoint: Endpoint, api: Api) -> None:
    dice = random.Random(0)
    values = [None, True, -1, 10**30, 1.5, "", "x", [], {}, [None], {"a": 1}, "\x00", "💥", float("inf")]
    fields = [*GenerationRequest.model_fields, "extra", "\ud800"]
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


def test_subjects_are_listed_page_by_page(endpoint: Endpoint, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "SUBJECTS_A_PAGE", 2)
    for name in ("cat", "ant", "owl"):
        host(name)
    Subjects(TABLE).refuse("Grandma's cat?", EmptyDataset("n").report)
    pages, query = [], ""
    while len(pages) < 5:
        status, page = api.call("GET", "/v1/subjects", query=query)
        assert status == 200
        pages.append([subject["subject"] for subject in page["subjects"]])
        if page["next"] is None:
            break
        query = urlencode({"after": page["next"]})
    assert [name for names in pages for name in names] == ["Grandma's cat?", "ant", "cat", "dog", "owl"]
    assert max(map(len, pages)) == 2
    assert api.call("GET", "/v1/subjects", query="after=zebra")[1] == {"subjects": [], "next": None}
    status, refused = api.call("GET", "/v1/subjects", query="after=" + "ü" * 3000)
    assert (status, refused["error"]["code"]) == (400, "invalid_request")


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
