"""What to train: the dataset's dataset_info.json and the job's hyperparameters, made one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from contracts.errors import EmptyDataset, InvalidBaseModel, InvalidDatasetInfo, InvalidRequest
from contracts.steps import overridden, require_a_warmup_that_ends
from contracts.storage import DATASET_INFO
from contracts.training import DatasetInfo, Hyperparameters, JobHyperparameters, describe
from contracts.words import own_words


@dataclass(frozen=True)
class Subject:
    """Photos in one folder that show one thing."""

    folder: str  # of the dataset; empty for its top level
    instance_prompt: str
    class_prompt: str | None


@dataclass(frozen=True)
class TrainingSettings:
    subjects: tuple[Subject, ...]  # the one that the dataset is named after first
    hyperparameters: Hyperparameters
    memory_tier: int
    base_model: str | None  # the id that is asked for, if one is
    continue_from: str | None = None

    @property
    def main(self) -> Subject:
        return self.subjects[0]

    @property
    def class_prompts(self) -> list[str]:
        """Those that prior preservation needs pictures of, each once."""
        if not self.hyperparameters.with_prior_preservation:
            return []
        return list(dict.fromkeys(subject.class_prompt for subject in self.subjects if subject.class_prompt))


def read_settings(dataset: Path, job_hyperparameters: dict[str, str]) -> TrainingSettings:
    """As asked: the job's hyperparameters win over those in dataset_info.json, and what neither sets stays unset.

    A job that names its instance_prompt needs no dataset_info.json. Raises InvalidDatasetInfo and InvalidRequest
    (naming the hyperparameter and its allowed range).
    """
    try:
        job = JobHyperparameters.from_sagemaker(job_hyperparameters)
    except ValidationError as error:
        raise InvalidRequest(f"Hyperparameters: {describe(error)}.") from error
    except ValueError as error:
        raise InvalidRequest(f"Hyperparameters: {error}.") from error
    info = _read_info(dataset / DATASET_INFO, job)
    asked = overridden(info.hyperparameters, job.training)
    subjects = (
        Subject("", job.instance_prompt or info.instance_prompt, job.class_prompt or info.class_prompt),
        *(Subject(concept.folder, concept.instance_prompt, concept.class_prompt) for concept in info.concepts),
    )
    if asked.with_prior_preservation and not all(subject.class_prompt for subject in subjects):
        raise InvalidDatasetInfo("with_prior_preservation needs a class_prompt of every subject.")
    if asked.textual_inversion_steps and not all(subject.class_prompt for subject in subjects):
        raise InvalidDatasetInfo(
            "textual_inversion_steps needs a class_prompt of every subject: the word to learn is the one it lacks."
        )
    if asked.textual_inversion_steps:
        for subject in subjects:
            if not own_words(subject.instance_prompt, subject.class_prompt or ""):
                raise InvalidDatasetInfo(
                    f"textual_inversion_steps: {subject.instance_prompt!r} has no word that its class_prompt lacks."
                )
    return TrainingSettings(subjects, asked, job.memory_tier, job.base_model or info.base_model, info.continue_from)


def _read_info(path: Path, job: JobHyperparameters) -> DatasetInfo:
    if path.is_file():
        return DatasetInfo.parse(path.read_bytes())
    if job.instance_prompt:
        return DatasetInfo(instance_prompt=job.instance_prompt)
    if not any(path.parent.glob("*")):
        raise EmptyDataset(f"The training channel, {path.parent}, holds no files.")
    raise InvalidDatasetInfo("The dataset has no dataset_info.json, and the job has no instance_prompt.")


def settle_steps(settings: TrainingSettings, instance_images: int, processes: int) -> int:
    """How many. Raises InvalidRequest."""
    wanted = settings.hyperparameters
    steps = wanted.total_steps(instance_images, processes)
    try:
        require_a_warmup_that_ends(wanted, steps)
    except ValueError as error:
        raise InvalidRequest(f"Hyperparameters: {error}.", "Lower lr_warmup_steps, or raise max_steps.") from error
    return steps


def require_base_model(asked: str | None, mounted: str) -> None:
    """Raises InvalidBaseModel when the model channel holds another base model than the one that is asked for."""
    if asked is not None and asked != mounted:
        raise InvalidBaseModel(
            f"The job asks for base model {asked}, but its model channel holds {mounted}.",
            "Point the model channel at the base model's prefix, or leave the base model out of the job.",
        )
