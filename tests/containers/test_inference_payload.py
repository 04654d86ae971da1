"""The body of /invocations: JumpStart's documented examples, what its clients really send, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from contracts.errors import InvalidRequest
from inference_container.payload import Invocation, parse_invocation


def parse(
    body: Any, content_type: str | None = "application/json", accept: str | None = "application/json"
) -> Invocation:
    return parse_invocation(content_type, accept, body if isinstance(body, bytes) else json.dumps(body).encode())


def test_the_documented_json_example_is_understood_in_every_field() -> None:
    documented = {
        "prompt": "astronaut on a horse",
        "width": 512,
        "height": 512,
        "num_images_per_prompt": 1,
        "num_inference_steps": 50,
        "guidance_scale": 7.5,
        "negative_prompt": "blurry",
        "seed": 1,
    }
    invocation = parse(documented)
    assert invocation.payload.model_dump(include=set(documented)) == documented
    assert not invocation.plain_text


def test_the_documented_text_example_is_the_prompt_itself() -> None:
    invocation = parse(b"astronaut on a horse", "application/x-text")
    assert invocation.payload.prompt == "astronaut on a horse"
    assert invocation.plain_text


@pytest.mark.parametrize(
    "content_type", ["application/x-text", "application/x-text; charset=utf-8", "text/plain", None]
)
def test_a_json_encoded_prompt_loses_its_quotation_marks(content_type: str | None) -> None:
    assert parse(b'"a dog"', content_type).payload.prompt == "a dog"


@pytest.mark.parametrize("text", ["{cat}", "12", '"a" dog', "null", '{"a": 1}', "a\ndog", "-x 'q' \u00fc"])
def test_text_that_only_looks_like_json_is_a_prompt(text: str) -> None:
    assert parse(text.encode(), "application/x-text").payload.prompt == text


def test_a_json_document_sent_as_text_is_the_json_form() -> None:
    invocation = parse({"prompt": "a dog", "seed": 3}, "application/x-text")
    assert (invocation.payload.prompt, invocation.payload.seed, invocation.plain_text) == ("a dog", 3, False)


@pytest.mark.parametrize("content_type", [None, "", "application/octet-stream", "*/*"])
def test_without_a_content_type_the_body_decides(content_type: str | None) -> None:
    assert not parse({"prompt": "a dog"}, content_type).plain_text
    assert parse(b"a dog", content_type).plain_text


@pytest.mark.parametrize("content_type", ["application/json;jpeg", "Application/JSON; charset=utf-8"])
def test_parameters_of_the_content_type_do_not_matter(content_type: str) -> None:
    assert parse({"prompt": "a dog"}, content_type).payload.prompt == "a dog"


def test_a_byte_order_mark_is_no_part_of_the_prompt() -> None:
    assert parse(b"\xef\xbb\xbfa dog", "application/x-text").payload.prompt == "a dog"


def test_the_predictions_wrapper_is_taken_off() -> None:
    assert parse({"predictions": [{"prompt": "a dog", "seed": 4}]}).payload.seed == 4


@pytest.mark.parametrize("predictions", [[], [{"prompt": "a"}, {"prompt": "b"}], {"prompt": "a"}, ["a"], None])
def test_anything_else_in_the_wrapper_is_refused_by_its_name(predictions: Any) -> None:
    with pytest.raises(InvalidRequest, match="predictions"):
        parse({"predictions": predictions})


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, "rgb"),
        ("application/json", "rgb"),
        ("*/*", "rgb"),
        ("application/json;jpeg", "jpeg"),
        ("application/json; JPEG", "jpeg"),
        ("application/json;png", "png"),
        ("text/html, application/json;png;q=0.9", "png"),
    ],
)
def test_accept_chooses_the_form_of_the_answer(accept: str | None, form: str) -> None:
    assert parse({"prompt": "a"}, accept=accept).form == form


def test_an_answer_that_cannot_be_given_is_406() -> None:
    with pytest.raises(InvalidRequest, match="Accept") as caught:
        parse({"prompt": "a"}, accept="image/webp")
    assert caught.value.status == 406


def test_a_body_that_cannot_be_read_is_415() -> None:
    with pytest.raises(InvalidRequest, match="Content-Type") as caught:
        parse(b"<a/>", "application/xml")
    assert caught.value.status == 415


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", ""),
        ("prompt", None),
        ("prompt", 5),
        ("prompt", []),
        ("prompt", ["a", 5]),
        ("prompt", ["a", ""]),
        ("prompt", {"a": 1}),
        ("prompt", "x" * 10_000),
        ("prompt", "\ud800"),
        ("width", 0),
        ("width", -64),
        ("width", 65),
        ("width", 1032),
        ("width", "wide"),
        ("width", 64.5),
        ("height", 100),
        ("height", [64]),
        ("num_images_per_prompt", 0),
        ("num_images_per_prompt", 9),
        ("num_inference_steps", 0),
        ("num_inference_steps", 201),
        ("num_inference_steps", "many"),
        ("guidance_scale", -51),
        ("guidance_scale", "strong"),
        ("guidance_scale", float("nan")),
        ("guidance_scale", float("inf")),
        ("negative_prompt", ["a"]),
        ("negative_prompt", 7),
        ("seed", "abc"),
        ("seed", -1),
        ("seed", 2**32),
        ("scheduler", "fast"),
        ("subject", "No Such"),
        ("subject", "../x"),
        ("mix", [{"subject": "tom"}]),
        ("mix", "tom"),
        ("mix", [{"subject": "tom"}] * 4),
        ("lora_scale", 2.1),
        ("lora_scale", -0.1),
        ("source_image", "sources/someone/else"),
        ("source_image", "https://example.com/cat.png"),
        ("source_image", "../secret"),
        ("strength", 0.5),
        ("strength", 0),
        ("upscale", 0),
        ("upscale", 5),
        ("version", "abcdefabcdef-1"),
        ("version", "../../etc"),
        ("steps", 5),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=field) as caught:
        parse({"prompt": "a dog", field: value})
    assert caught.value.status == 400
    assert caught.value.cure


@pytest.mark.parametrize("value", [True, 1, "x", None])
@pytest.mark.parametrize("field", ["\ud800", "x\udfff"])
def test_a_field_whose_name_is_no_text_is_the_callers_fault(field: str, value: Any) -> None:
    for document in ({field: value}, {"subject": "rex", "mix": [{"subject": "tom", field: value}]}):
        with pytest.raises(InvalidRequest) as caught:
            parse({"prompt": "a dog", **document})
        assert caught.value.report.model_dump_json().encode()


def test_a_list_of_prompts_needs_a_list_of_negatives_of_its_length() -> None:
    for negative in ("blurry", ["blurry"], ["a", "b", "c"]):
        with pytest.raises(InvalidRequest, match="negative_prompt"):
            parse({"prompt": ["a", "b"], "negative_prompt": negative})


@pytest.mark.parametrize(
    "body",
    [b"", b"  ", b"\xff\xfe", b"{", b"[1]", b"5", b"null", b'"a"', b"[" * 100_000, b'{"seed":' + b"1" * 9000 + b"}"],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="body"):
        parse(body)


def test_a_missing_prompt_is_named() -> None:
    with pytest.raises(InvalidRequest, match="prompt: missing"):
        parse({})
