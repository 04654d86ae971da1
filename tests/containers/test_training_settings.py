"""Hyperparameters in every spelling that reaches a job, and what the memory tiers make of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contracts.errors import InvalidDatasetInfo, InvalidRequest
from contracts.training import Hyperparameters, TrainingDefaults
from training_container.platform import Platform
from training_container.settings import fit_to_memory_tier, read_settings

INFO = {"instance_prompt": "a photo of sks toy", "class_prompt": "a photo of a toy"}


def read(tmp_path: Path, info: dict[str, object] | None = None, **job: str) -> Hyperparameters:
    (tmp_path / "dataset_info.json").write_text(json.dumps(INFO if info is None else info))
    return read_settings(tmp_path, job).hyperparameters


@pytest.mark.parametrize("text", ["True", "true", '"True"', "1"])
def test_true_in_every_spelling(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, with_prior_preservation=text).with_prior_preservation is True


@pytest.mark.parametrize("text", ["False", "false", '"False"', "0", ""])
def test_false_in_every_spelling(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, with_prior_preservation=text).with_prior_preservation is False


@pytest.mark.parametrize("text", ["200", '"200"', "200.0", "2e2"])
def test_a_whole_number_in_every_spelling(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, max_steps=text).max_steps == 200


@pytest.mark.parametrize("text", ["None", '"None"'])
def test_no_max_steps_in_every_spelling(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, max_steps=text, epochs="3").total_steps(4) == 12


def test_keys_of_the_sagemaker_sdk_and_of_tuners_are_ignored(tmp_path: Path) -> None:
    read(tmp_path, sagemaker_program='"train.py"', sagemaker_region="x", _tuning_objective_metric="fid")


@pytest.mark.parametrize(
    ("name", "text"),
    [("max_steps", "0"), ("max_steps", "abc"), ("learning_rate", "nan"), ("unknown", "1"), ("memory_tier", "4")],
)
def test_a_bad_hyperparameter_is_refused_by_name(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        read(tmp_path, **{name: text})


def test_the_job_wins_over_the_dataset(tmp_path: Path) -> None:
    info = {**INFO, "hyperparameters": {"max_steps": 9, "batch_size": 2}}
    settings = read(tmp_path, info, max_steps="5")
    assert (settings.max_steps, settings.batch_size) == (5, 2)
    assert settings.model_fields_set == {"max_steps", "batch_size"}  # the rest is left to the base model


def test_prior_preservation_without_a_class_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDatasetInfo, match="class_prompt"):
        read(tmp_path, {"instance_prompt": "sks"}, with_prior_preservation="True")


def test_a_dataset_without_its_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidDatasetInfo):
        read_settings(tmp_path, {})


def test_each_memory_tier_saves_more_than_the_one_before(tmp_path: Path) -> None:
    asked = Hyperparameters(method="full", batch_size=4, gradient_accumulation_steps=2, learning_rate=2e-6)
    none = TrainingDefaults()
    assert fit_to_memory_tier(asked, 0, none) == asked
    first, second, third = (fit_to_memory_tier(asked, tier, none) for tier in (1, 2, 3))
    assert first == asked.model_copy(update={"gradient_checkpointing": True})
    assert (second.batch_size, second.gradient_accumulation_steps, second.method) == (1, 8, "full")
    assert (third.method, third.lora_rank, third.effective_learning_rate) == ("lora", 8, 1e-4)
    assert second.total_steps(16) == asked.total_steps(16)
    own = TrainingDefaults.model_validate({"lora": {"learning_rate": 1e-3}, "full": {"learning_rate": 1e-5}})
    assert fit_to_memory_tier(asked, 3, own).effective_learning_rate == 1e-3
    (tmp_path / "dataset_info.json").write_text(json.dumps(INFO))
    assert [read_settings(tmp_path, {"memory_tier": f'"{t}"'}).eight_bit_adam for t in range(4)] == [0, 0, 1, 1]


def test_hyperparameters_that_are_no_json_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    assert Platform(tmp_path).hyperparameters() == {}
    (config / "hyperparameters.json").write_text("{")
    with pytest.raises(InvalidRequest):
        Platform(tmp_path).hyperparameters()
