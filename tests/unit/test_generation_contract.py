"""contracts/generation.py: what a request leaves open is the base model's to choose, then the contract's."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.errors import PromptRejected
from contracts.generation import GenerationDefaults, GenerationRequest, InferencePayload, Sampling
from contracts.policy import check_prompts
from contracts.training import describe
from lambdas.domain.generations import GenerationRow
from lambdas.domain.openapi import document

BEST = GenerationDefaults(num_inference_steps=25, guidance_scale=4.0, scheduler="ddim")
ASKED = {"num_inference_steps": 9, "guidance_scale": 0.0, "scheduler": "euler"}


def test_the_request_wins_over_the_base_model_and_that_over_the_contract() -> None:
    assert InferencePayload(prompt="x").sampling(GenerationDefaults()) == Sampling()
    assert InferencePayload(prompt="x").sampling(BEST) == Sampling(25, 4.0, "ddim")
    for name, value in ASKED.items():
        settled = InferencePayload.model_validate({"prompt": "x", name: value}).sampling(BEST)
        assert vars(settled) == {**BEST.model_dump(), name: value}


def test_what_is_left_open_is_still_open_after_the_passage_through_table_and_endpoint() -> None:
    row = GenerationRow.model_validate(
        {
            "id": "0" * 32, "owner": "me", "status": "queued", "subject": "dog", "version": "0" * 12 + "-1",
            "request": {"subject": "dog", "prompt": "x", "guidance_scale": 2}, "created_at": "2026-01-01T00:00:00Z",
        }
    )  # fmt: skip
    stored = GenerationRow.model_validate(json.loads(row.model_dump_json()))
    received = InferencePayload.model_validate_json(stored.payload().model_dump_json(exclude_none=True))
    drawn = InferencePayload.model_validate(received.model_dump(mode="json"))
    assert drawn.sampling(BEST) == Sampling(25, 2.0, "ddim")


def test_the_api_shows_the_default_of_the_contract() -> None:
    shown = document()["components"]["schemas"]["GenerationRequest"]["properties"]
    for field in fields(Sampling):
        assert shown[field.name]["default"] == field.default
        assert str(field.default) in shown[field.name]["description"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps: must be greater than or equal to 1"),
        ({"guidance_scale": 51}, "guidance_scale: must be less than or equal to 50"),
        ({"scheduler": "warp"}, "scheduler: must be 'ddim'"),
        ({"seed": 1}, "seed: unknown field"),
    ],
)
def test_bad_defaults_are_refused_by_name_with_the_range(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        GenerationDefaults.model_validate(change)
    assert named in describe(caught.value)


def test_a_request_that_names_nothing_names_nothing_over_http() -> None:
    sent = GenerationRequest(subject="dog", prompt="x").model_dump(exclude_none=True)
    assert {"prompt": "x", "subject": "dog"}.items() <= sent.items()
    assert not sent.keys() & {*GenerationDefaults.model_fields, "width", "height", "seed", "version", "strength"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"upscale": 4, "width": 1024}, "upscale: width would be 4096"),
        ({"strength": 0.5}, "strength: has no meaning without source_image"),
        ({"prompt": ["x"] * 9}, "prompt"),
        ({"prompt": [0] * 1_000_000}, "prompt"),
        ({"mix": [{"subject": "b", "lora_scale": True}]}, "lora_scale: must not be true or false"),
        ({"seed": True}, "seed: must not be true or false"),
        ({"mix": [{"subject": "b", "lora_scale": 3}]}, "mix.0.lora_scale: must be less than or equal to 2"),
    ],
)
def test_fields_that_contradict_each_other_are_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        GenerationRequest.model_validate({"subject": "dog", "prompt": "x", **fields})
    assert named in describe(caught.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompt": ""}, "prompt: must not be empty (got '')"),
        ({"prompt": " \n"}, r"prompt: must not be empty (got ' \n')"),
        ({"prompt": ["x", " "]}, "prompt.1: must not be empty (got ' ')"),
        ({"prompt": 5}, "prompt: must be text (got 5)"),
        ({"prompt": ["x", 5]}, "prompt.1: must be text (got 5)"),
        ({"mix": "x"}, "mix: must be a list (got 'x')"),
        ({"compute_fid": True}, "compute_fid: unknown field"),
        ({"promt": "x"}, "promt: unknown field (is prompt meant?)"),
        ({"upscale": 4, "width": 1024}, "upscale: width would be 4096, the most is 2048"),
        ({"prompt": ["x"] * 2, "num_images_per_prompt": 5},
         "num_images_per_prompt: at most 8 pictures a request, not 10"),
        ({"version": "1"}, "version: must be a version such as 0123456789ab-1 (got '1')"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_once_and_in_plain_words(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        GenerationRequest.model_validate({"subject": "dog", "prompt": "x", **fields})
    assert describe(caught.value, GenerationRequest.model_fields) == told


@pytest.mark.parametrize(
    ("prompt", "refused"),
    [
        ("a wicked wolf", True),
        ("A WICKED\n wolf!", True),
        ("ｗｉｃｋｅｄ wolf", True),
        ("wic\u200bked wolf", True),
        ("(wic:1.1)ked (wolf:.5)", True),
        ("wicked_wolf2", True),
        ("(wicked:1)(wolf:1)", True),
        ("wickedwolf", False),
        ("wolf", False),
    ],
)
def test_blocked_phrases_are_whole_words_of_any_case(prompt: str, refused: bool) -> None:
    if refused:
        with pytest.raises(PromptRejected) as caught:
            check_prompts(["a dog", prompt], ["bear", "wicked wolf"])
        assert "wolf" not in str(caught.value)
    else:
        check_prompts(["a dog", prompt], ["bear", "wicked wolf"])
