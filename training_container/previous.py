"""The model that a training goes on from: an earlier version of ours, brought by a channel of its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError

from contracts.artifact import ARTIFACT, Artifact, BaseModelManifest
from contracts.errors import InvalidPreviousModel
from contracts.training import describe
from diffusion.files import load_weights
from diffusion.verification import DamagedFile, verify
from training_container.dreambooth.inversion import load_words
from training_container.dreambooth.lora import load_adapters
from training_container.dreambooth.trainable import Trainable


@dataclass(frozen=True)
class PreviousModel:
    directory: Path
    artifact: Artifact

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.artifact.model_dump_json().encode()).hexdigest()


def read_previous(directory: Path, wanted: str | None, base: BaseModelManifest) -> PreviousModel | None:
    """wanted: what dataset_info.json names. Raises InvalidPreviousModel."""
    if not directory.is_dir():
        if wanted:
            raise InvalidPreviousModel(f"The job goes on from {wanted}, but has no channel {directory.name}.")
        return None
    try:
        artifact = Artifact.model_validate_json((directory / ARTIFACT).read_bytes())
    except FileNotFoundError as error:
        raise InvalidPreviousModel(f"The channel {directory.name} holds no {ARTIFACT}.") from error
    except ValidationError as error:
        raise InvalidPreviousModel(f"{ARTIFACT} of the model to go on from: {describe(error)}.") from error
    if artifact.base_model_checksum != base.checksum:
        raise InvalidPreviousModel(f"The model to go on from was trained on {artifact.base_model}, not on {base.id}.")
    try:
        verify(directory, artifact.files)
    except (OSError, DamagedFile) as error:
        raise InvalidPreviousModel(f"The model to go on from is damaged: {error}.") from error
    return PreviousModel(directory, artifact)


def go_on_from(previous: PreviousModel, model: Trainable) -> list[int]:
    """Puts its weights into the model. Returns the tokens of the words that its adapters come with.

    Raises InvalidPreviousModel.
    """
    with_text = previous.artifact.hyperparameters.train_text_encoder
    try:
        if previous.artifact.method == "lora":
            load_adapters(previous.directory, model.unet, model.text_encoder if with_text else None)
            return load_words(previous.directory, model.text_encoder)
        load_weights(model.unet, previous.directory / "unet")
        load_weights(model.text_encoder, previous.directory / "text_encoder")
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        text = f"{type(error).__name__}: {error}"[:300]
        raise InvalidPreviousModel(f"The model to go on from does not fit ({text}).") from error
    return []
