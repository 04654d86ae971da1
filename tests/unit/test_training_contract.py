"""contracts/training.py: JumpStart's spellings, bounds and messages."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from contracts.errors import InvalidDatasetInfo
from contracts.steps import overridden, require_a_warmup_that_ends
from contracts.training import (
    DatasetInfo,
    Hyperparameters,
    JobHyperparameters,
    TrainingDefaults,
    TrainingRequest,
    describe,
    settle_hyperparameters,
)

JUMPSTART_JOB = {
    "with_prior_preservation": '"False"', "num_class_images": '"100"', "epochs": '"10"', "max_steps": '"200"',
    "batch_size": '"1"', "learning_rate": '"2e-06"', "prior_loss_weight": '"1.0"', "center_crop": '"False"',
    "lr_scheduler": '"constant"', "adam_weight_decay": '"0.01"', "adam_beta1": '"0.9"', "adam_beta2": '"0.999"',
    "adam_epsilon": '"1e-08"', "gradient_accumulation_steps": '"1"', "max_grad_norm": '"1.0"', "seed": '"0"',
    "compute_fid": '"False"', "sagemaker_program": '"transfer_learning.py"', "sagemaker_container_log_level": "20",
    "_tuning_objective_metric": "fid_score",
}  # fmt: skip


def read(**values: str) -> Hyperparameters:
    return JobHyperparameters.from_sagemaker(values).training


def test_the_map_of_a_real_jumpstart_job_is_read_whole() -> None:
    got = JobHyperparameters.from_sagemaker(JUMPSTART_JOB).training
    assert got.max_steps == 200
    assert got.learning_rate == 2e-6
    assert got.with_prior_preservation is False
    assert got.lr_scheduler == "constant"


@pytest.mark.parametrize("text", ["True", "true", '"True"', '"true"', "1"])
def test_true_in_every_spelling(text: str) -> None:
    assert read(center_crop=text).center_crop is True


@pytest.mark.parametrize("text", ["False", "false", '"False"', '"false"', "0", "", '""'])
def test_false_in_every_spelling(text: str) -> None:
    assert read(center_crop=text).center_crop is False


@pytest.mark.parametrize("text", ["200", '"200"', "200.0", "2e2"])
def test_an_integer_in_every_spelling(text: str) -> None:
    assert read(max_steps=text).max_steps == 200


@pytest.mark.parametrize("text", ["None", '"None"', "null", ""])
def test_no_limit_of_steps_in_every_spelling(text: str) -> None:
    assert read(max_steps=text).max_steps is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_steps", "0"), ("max_steps", "-1"), ("max_steps", "abc"), ("max_steps", "1.5"), ("batch_size", "true"),
        ("learning_rate", "nan"), ("learning_rate", "inf"), ("learning_rate", "-1e-6"), ("resolution", "500"),
        ("lr_scheduler", "sideways"), ("center_crop", "maybe"), ("seed", "-1"), ("prior_loss_weight", "nan"),
        ("compute_fid", "True"), ("warp_factor", "9"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(**{name: text})
    assert name in describe(caught.value)


def test_what_is_sent_to_sagemaker_is_text_and_comes_back_the_same() -> None:
    wanted = Hyperparameters(max_steps=7, method="full", learning_rate=3e-6, with_prior_preservation=True)
    sent = wanted.to_sagemaker()
    assert all(isinstance(value, str) and len(value) <= 2500 for value in sent.values())
    assert len(sent) <= 100
    assert JobHyperparameters.from_sagemaker(sent).training == wanted


def test_steps_follow_from_epochs_when_no_limit_is_given() -> None:
    assert Hyperparameters(epochs=3, batch_size=2).total_steps(5) == 9
    assert Hyperparameters(epochs=3, max_steps=4).total_steps(5) == 4


DEFAULTS = TrainingDefaults.model_validate(
    {
        "lora": {"learning_rate": 0.001, "max_steps": 300, "with_prior_preservation": True},
        "full": {"learning_rate": "1e-5", "train_text_encoder": True},
    }
)


def settled(
    defaults: TrainingDefaults = DEFAULTS, class_prompt: str | None = "a dog", **asked: object
) -> Hyperparameters:
    return settle_hyperparameters(
        Hyperparameters.model_validate(asked), defaults, 64, has_classes=class_prompt is not None
    )


def test_what_is_left_open_is_the_base_models_for_the_method_and_then_the_contracts() -> None:
    lora, full = settled(), settled(method="full")
    assert (lora.learning_rate, lora.max_steps, lora.train_text_encoder) == (0.001, 300, False)
    assert (full.learning_rate, full.max_steps, full.train_text_encoder) == (1e-5, None, True)
    assert (lora.lora_rank, full.lora_rank) == (16, 16)
    assert settled(TrainingDefaults()) == Hyperparameters(resolution=64)


def test_what_is_asked_for_wins_even_when_it_is_the_contracts_own_default() -> None:
    asked = settled(learning_rate=None, max_steps=7, with_prior_preservation=False, resolution=96)
    assert (asked.effective_learning_rate, asked.max_steps, asked.resolution) == (1e-4, 7, 96)
    assert asked.with_prior_preservation is False


def test_a_default_yields_to_what_it_would_contradict() -> None:
    assert settled(epochs=3).total_steps(5) == 15
    assert settled(epochs=20).total_steps(5) == 100  # the contract's own default, but asked for
    assert settled(epochs=3, max_steps=4).total_steps(5) == 4
    assert settled().with_prior_preservation is True
    assert settled(class_prompt=None).with_prior_preservation is False


def test_a_real_jumpstart_job_trains_the_whole_model_as_jumpstart_does() -> None:
    asked = JobHyperparameters.from_sagemaker(JUMPSTART_JOB).training
    got = settle_hyperparameters(asked, DEFAULTS, 64, has_classes=True)
    assert (got.method, got.learning_rate, got.train_text_encoder) == ("full", 2e-6, True)


@pytest.mark.parametrize(
    ("asked", "method"),
    [
        ({"learning_rate": 9e-6}, "full"),
        ({"learning_rate": 1e-5}, "lora"),
        ({"learning_rate": 2e-6, "method": "lora"}, "lora"),
        ({"learning_rate": 2e-6, "rank": 8}, "lora"),
        ({"learning_rate": 2e-6, "lora_targets": "all"}, "lora"),
        ({"learning_rate": 2e-6, "max_steps": 200}, "full"),
        ({"learning_rate": None}, "lora"),
    ],
)
def test_a_rate_for_all_weights_means_all_weights_unless_lora_is_spoken_of(
    asked: dict[str, object], method: str
) -> None:
    assert settled(**asked).method == method


def test_a_low_rate_that_is_the_base_models_own_default_chooses_no_method() -> None:
    gentle = TrainingDefaults.model_validate({"lora": {"learning_rate": 5e-6}})
    once = settled(gentle)
    assert (once.method, once.learning_rate) == ("lora", 5e-6)
    assert settle_hyperparameters(once, gentle, 64, has_classes=True) == once


@pytest.mark.parametrize("asked", [{}, {"epochs": 3}, {"method": "full"}, {"max_steps": None}, {"learning_rate": 2e-6}])
def test_settling_again_changes_nothing_also_after_a_dump(asked: dict[str, object]) -> None:
    once = settled(**asked)
    assert settle_hyperparameters(once, DEFAULTS, 96, has_classes=True) == once
    dumped = Hyperparameters.model_validate_json(once.model_dump_json())
    assert settle_hyperparameters(dumped, DEFAULTS, 96, has_classes=True) == once


def test_defaults_are_dumped_with_nothing_but_what_was_set() -> None:
    read = TrainingDefaults.model_validate_json(DEFAULTS.model_dump_json())
    assert read.lora.model_fields_set == DEFAULTS.lora.model_fields_set
    assert json.loads(DEFAULTS.model_dump_json())["full"] == {"learning_rate": 1e-5, "train_text_encoder": True}


def test_the_learning_rate_follows_the_method() -> None:
    assert Hyperparameters(method="full").effective_learning_rate == 2e-6
    assert Hyperparameters(method="lora").effective_learning_rate == 1e-4
    assert Hyperparameters(method="lora", learning_rate=5e-5).effective_learning_rate == 5e-5


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"{'instance_prompt': 'x'}", "not JSON"),
        (b"\xff\xfe", "not JSON (it is not UTF-8 text)"),
        (b"[]", "the document: must be a JSON object"),
        (b"[" * 10_000, "not JSON (it is nested too deeply)"),
        (b'{"max_steps": ' + b"1" * 5000 + b"}", "not JSON (a number has too many digits)"),
        (json.dumps({f"field{n}": 1 for n in range(5000)}).encode(), "more"),
        (b"{}", "instance_prompt: missing"),
        (b'{"instance_prompt": ""}', "instance_prompt: must not be empty"),
        (b'{"instance_prompt": " \\t"}', "instance_prompt: must not be empty"),
        (b'{"instance_prompt": "x", "hyperparameters": {"with_prior_preservation": true}}', "class_prompt"),
    ],
)
def test_a_bad_dataset_info_names_the_field_and_the_cure(content: bytes, named: str) -> None:
    with pytest.raises(InvalidDatasetInfo) as caught:
        DatasetInfo.parse(content)
    assert named in caught.value.cause
    assert len(caught.value.cause) < 1000
    assert "instance_prompt" in caught.value.cure


@pytest.mark.parametrize(
    ("more", "named", "cure"),
    [
        ({"prompt": "y"}, "prompt: unknown field", "Correct the named fields"),
        ({"str": "y"}, "str: unknown field", "Correct the named fields"),
        ({"hyperparameters": {"steps": 3}}, "hyperparameters.steps: unknown field", "Correct the named fields"),
        ({"hyperparameters": {"max_steps": "many"}}, "max_steps: must be a whole number (got 'many')", "Correct"),
        ({"hyperparameters": {"max_steps": '"a"b"'}}, "max_steps: must be a whole number (got", "Correct"),
        ({"hyperparameters": {"learning_rate": "fast"}}, "learning_rate: must be a number (got 'fast')", "Correct"),
        ({"hyperparameters": []}, "hyperparameters: must be a JSON object (got [])", "Correct the named fields"),
        ({"hosting": "cloud"}, "hosting: must be 'shared' or 'dedicated' (got 'cloud')", "Correct the named fields"),
        ({"max_steps": 5}, "max_steps: unknown field.", '{"hyperparameters": {"max_steps": ...}}'),
    ],
)
def test_any_other_field_is_refused_in_plain_words_with_a_cure_of_its_own(
    more: dict[str, object], named: str, cure: str
) -> None:
    with pytest.raises(InvalidDatasetInfo) as caught:
        DatasetInfo.parse(json.dumps({"instance_prompt": "x", **more}).encode())
    assert named in caught.value.cause
    assert cure in caught.value.cure


def test_a_byte_order_mark_does_no_harm() -> None:
    assert DatasetInfo.parse(b'\xef\xbb\xbf{"instance_prompt": "a photo of sks dog"}').class_prompt is None


def test_a_dataset_without_info_takes_its_prompts_from_the_folder() -> None:
    info = DatasetInfo.from_subject_name("red-panda")
    assert info.instance_prompt == "a photo of sks red panda"
    assert info.class_prompt == "a photo of a red panda"


def test_the_normalised_dataset_info_reads_back_as_what_was_asked() -> None:
    request = TrainingRequest(
        subject="dog", base_model="tiny", instance_prompt='a "sks" dog\n– ü', class_prompt=None,
        hyperparameters=Hyperparameters(max_steps=3),
    )  # fmt: skip
    info = DatasetInfo.parse(json.dumps(request.dataset_info().model_dump()).encode())
    assert info.instance_prompt == request.instance_prompt
    assert info.hyperparameters == request.hyperparameters


def test_other_trainers_names_mean_the_same_in_a_dataset_too() -> None:
    content = {
        "instance_prompt": "a photo of sks dog",
        "hyperparameters": {
            "max_train_steps": 9, "train_batch_size": "2", "class_prompt": "a photo of a dog",
            "pretrained_model_name_or_path": "sd21", "with_prior_preservation": True,
        },
    }  # fmt: skip
    info = DatasetInfo.parse(json.dumps(content).encode())
    assert (info.hyperparameters.max_steps, info.hyperparameters.batch_size) == (9, 2)
    assert (info.class_prompt, info.base_model) == ("a photo of a dog", "sd21")
    assert info.hyperparameters.model_fields_set == {"max_steps", "batch_size", "with_prior_preservation"}


@pytest.mark.parametrize(
    ("hyperparameters", "named"),
    [
        ({"max_steps": 1, "max_train_steps": 2}, "max_steps is given twice"),
        ({"instance_prompt": "again"}, "instance_prompt is given twice"),
        ({"max_step": 1}, "unknown field .is max_steps meant?"),
        ({"max_train_step": 1}, "unknown field .is max_train_steps meant?"),
        ({"batch_size": 65}, "batch_size: must be less than or equal to 64 .got 65"),
        ({"attention": "flash"}, "attention: must be 'auto', 'sdpa' or 'xformers'"),
    ],
)
def test_what_is_given_twice_or_wrong_is_named_with_the_allowed_range(
    hyperparameters: dict[str, object], named: str
) -> None:
    content = {"instance_prompt": "a photo of sks dog", "hyperparameters": hyperparameters}
    with pytest.raises(InvalidDatasetInfo, match=named):
        DatasetInfo.parse(json.dumps(content).encode())


def test_several_subjects_each_have_a_folder_of_their_own() -> None:
    def parse(*concepts: dict[str, str], **hyperparameters: object) -> DatasetInfo:
        content = {
            "instance_prompt": "a",
            "class_prompt": "b",
            "concepts": concepts,
            "hyperparameters": hyperparameters,
        }
        return DatasetInfo.parse(json.dumps(content).encode())

    cup = {"folder": "cup", "instance_prompt": "a photo of zwx cup"}
    assert parse(cup).concepts[0].folder == "cup"
    for wrong in ({**cup, "folder": "../x"}, {**cup, "folder": "class_data_dir"}, {**cup, "folder": ""}):
        with pytest.raises(InvalidDatasetInfo, match="folder"):
            parse(wrong)
    with pytest.raises(InvalidDatasetInfo, match="same folder"):
        parse(cup, cup)
    with pytest.raises(InvalidDatasetInfo, match="class_prompt of cup"):
        parse(cup, with_prior_preservation=True)
    assert parse({**cup, "class_prompt": "a cup"}, with_prior_preservation=True).concepts[0].class_prompt == "a cup"


def test_the_later_source_wins_and_its_epochs_end_an_earlier_max_steps() -> None:
    of_dataset = Hyperparameters(max_steps=7, learning_rate=1e-3, lora_rank=8)
    assert overridden(of_dataset, Hyperparameters(lora_rank=4)).model_dump(exclude_unset=True) == {
        "max_steps": 7,
        "learning_rate": 1e-3,
        "lora_rank": 4,
    }
    assert overridden(of_dataset, Hyperparameters(epochs=2)).total_steps(5) == 10
    assert overridden(of_dataset, Hyperparameters(epochs=2, max_steps=3)).total_steps(5) == 3
    assert overridden(Hyperparameters(epochs=2), Hyperparameters(max_steps=3)).total_steps(5) == 3


def test_a_warmup_that_outlasts_the_training_is_refused_with_both_numbers() -> None:
    wanted = Hyperparameters(lr_scheduler="linear", lr_warmup_steps=11)
    require_a_warmup_that_ends(wanted, 11)
    with pytest.raises(ValueError, match=r"lr_warmup_steps: 11 .* 10 steps .*max_steps"):
        require_a_warmup_that_ends(wanted, 10)
    require_a_warmup_that_ends(wanted.model_copy(update={"lr_scheduler": "constant"}), 10)  # it has none
