"""What to train: the dataset's dataset_info.json, the job's hyperparameters and the memory tier, made one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from contracts.errors import InvalidDatasetInfo, InvalidRequest
from contracts.storage import DATASET_INFO
from contracts.training import (
    HIGHEST_MEMORY_TIER,
    MEMORY_TIER,
    DatasetInfo,
    Hyperparameters,
    TrainingDefaults,
    describe,
)


@dataclass(frozen=True)
class TrainingSettings:
    instance_prompt: str
    class_prompt: str | None
    hyperparameters: Hyperparameters
    memory_tier: int
    eight_bit_adam: bool  # wanted; used where the library and a GPU are there


def read_settings(dataset: Path, job_hyperparameters: dict[str, str]) -> TrainingSettings:
    """As asked: the job's hyperparameters win over those in dataset_info.json, and what neither sets stays unset.

    Raises InvalidDatasetInfo and InvalidRequest (naming the hyperparameter and its allowed range).
    """
    path = dataset / DATASET_INFO
    if not path.is_file():
        raise InvalidDatasetInfo("The dataset has no dataset_info.json.")
    info = DatasetInfo.parse(path.read_bytes())
    job = dict(job_hyperparameters)
    tier = parse_memory_tier(job.pop(MEMORY_TIER, "0"))
    try:
        of_job = Hyperparameters.from_sagemaker(job)
    except ValidationError as error:
        raise InvalidRequest(f"Hyperparameters: {describe(error)}.") from error
    asked = info.hyperparameters.model_copy(update=of_job.model_dump(exclude_unset=True))
    if asked.with_prior_preservation and not info.class_prompt:
        raise InvalidDatasetInfo("with_prior_preservation needs a class_prompt in dataset_info.json.")
    return TrainingSettings(
        instance_prompt=info.instance_prompt,
        class_prompt=info.class_prompt,
        hyperparameters=asked,
        memory_tier=tier,
        eight_bit_adam=tier >= 2 or asked.use_8bit_adam,
    )


def parse_memory_tier(text: str) -> int:
    """'2' or '"2"' -> 2. Raises InvalidRequest."""
    plain = text.strip().strip('"')
    if not plain.isascii() or not plain.isdigit() or int(plain) > HIGHEST_MEMORY_TIER:
        raise InvalidRequest(f"Hyperparameters: memory_tier: 0 to {HIGHEST_MEMORY_TIER} is wanted (got {text[:40]!r}).")
    return int(plain)


def fit_to_memory_tier(asked: Hyperparameters, tier: int, defaults: TrainingDefaults) -> Hyperparameters:
    """0: as asked; 1: gradient checkpointing; 2: also one picture at a time; 3: also LoRA of half the rank."""
    changes: dict[str, object] = {}
    if tier >= 1:
        changes["gradient_checkpointing"] = True
    if tier >= 2:
        changes["batch_size"] = 1
        changes["gradient_accumulation_steps"] = asked.gradient_accumulation_steps * asked.batch_size
        changes["sample_batch_size"] = 1
    if tier >= 3:
        changes["method"] = "lora"
        changes["lora_rank"] = max(1, asked.lora_rank // 2)
        if asked.lora_alpha is not None:
            changes["lora_alpha"] = asked.lora_alpha / 2  # keeps alpha / rank, the scale of the update
        if asked.method == "full":
            # a rate meant for all weights is far too small for LoRA's
            changes["learning_rate"] = defaults.lora.learning_rate
    return asked.model_copy(update=changes)
