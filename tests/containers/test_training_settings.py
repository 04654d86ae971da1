"""Hyperparameters in every spelling that reaches a job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contracts.errors import EmptyDataset, InvalidBaseModel, InvalidDatasetInfo, InvalidRequest
from contracts.training import Hyperparameters
from training_container.platform import Platform
from training_container.settings import read_settings, require_base_model

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
    [("max_steps", "0"), ("max_steps", "abc"), ("learning_rate", "nan"), ("unknown", "1"), ("memory_tier", "5")],
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
    with pytest.raises(EmptyDataset, match="holds no files"):
        read_settings(tmp_path / "missing", {})
    (tmp_path / "a.png").touch()
    with pytest.raises(InvalidDatasetInfo):
        read_settings(tmp_path, {})


def test_a_job_may_name_everything_and_then_needs_no_description(tmp_path: Path) -> None:
    job = {
        "instance_prompt": '"a photo of sks toy"', "class_prompt": "a photo of a toy", "max_train_steps": '"7"',
        "train_batch_size": "2", "checkpointing_steps": "5", "num_train_epochs": "3", "rank": "8",
        "pretrained_model_name_or_path": "sd21", "with_prior_preservation": "True", "memory_tier": '"2"',
    }  # fmt: skip
    settings = read_settings(tmp_path, job)
    asked = settings.hyperparameters
    assert (settings.main.instance_prompt, settings.main.class_prompt) == ("a photo of sks toy", "a photo of a toy")
    assert (asked.max_steps, asked.batch_size, asked.save_steps, asked.epochs, asked.lora_rank) == (7, 2, 5, 3, 8)
    assert (settings.base_model, settings.memory_tier) == ("sd21", 2)
    (tmp_path / "dataset_info.json").write_text(json.dumps({"instance_prompt": "of the dataset"}))
    assert read_settings(tmp_path, job).main.instance_prompt == "a photo of sks toy"
    assert read_settings(tmp_path, {}).main.instance_prompt == "of the dataset"


@pytest.mark.parametrize(
    "job",
    [
        {"batch_size": "1", "train_batch_size": "1"},
        {"base_model": "a", "pretrained_model_name_or_path": "a"},
        {"instance_prompt": ""},
        {"attention": "flash"},
    ],
)
def test_a_contradiction_or_an_empty_prompt_is_refused(tmp_path: Path, job: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        read(tmp_path, **job)


def test_another_base_model_than_the_mounted_one_is_refused() -> None:
    require_base_model(None, "sd15")
    require_base_model("sd15", "sd15")
    with pytest.raises(InvalidBaseModel, match=r"sd21.*sd15"):
        require_base_model("sd21", "sd15")


def test_hyperparameters_that_are_no_json_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    assert Platform(tmp_path).hyperparameters() == {}
    (config / "hyperparameters.json").write_text("{")
    with pytest.raises(InvalidRequest):
        Platform(tmp_path).hyperparameters()


def test_a_jobs_epochs_win_over_the_datasets_max_steps(tmp_path: Path) -> None:
    info = {**INFO, "hyperparameters": {"max_steps": 7}}
    assert read(tmp_path, info, epochs="2").total_steps(4) == 8
    assert read(tmp_path, info, epochs="2", max_steps="5").total_steps(4) == 5
    assert read(tmp_path, info).total_steps(4) == 7
