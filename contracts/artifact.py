"""What a base model and a trained model version contain: files with checksums, and where they came from."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from contracts.generation import GenerationDefaults
from contracts.storage import VERSION_PATTERN
from contracts.training import Concept, Hyperparameters, Method, TrainingDefaults

ARTIFACT = "artifact.json"
LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
LEARNED_WORDS = "learned_words.safetensors"  # of method lora: embeddings that textual inversion learned
WORD_IDS, WORD_ROWS = "ids", "rows"  # the tensors in it: tokens (K,), embeddings (K, width)
REQUIRED_BASE_MODEL_FILES = ("model_index.json",)
TRAINING_DEFAULTS = "training_defaults.json"  # of a base model, optional
GENERATION_DEFAULTS = "generation_defaults.json"  # of a base model, optional
MIN_CONTRAST = 0.01  # of a picture that shows something: an all-black or one-coloured one has none


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")  # NaN must survive JSON


class FileEntry(_Record):
    path: str = Field(description="Relative to the directory that is described; forward slashes.")
    size: int = Field(ge=0, description="Bytes.")
    sha256: str = Field(pattern=r"^[a-f0-9]{64}$")


def checksum_of(files: list[FileEntry]) -> str:
    """One sha256 for a whole directory: independent of the order of the list."""
    lines = sorted(f"{file.sha256} {file.path}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class BaseModelManifest(_Record):
    """manifest.json of an imported base model: an ordinary diffusers directory, safetensors only."""

    id: str
    files: list[FileEntry]
    checksum: str = Field(description="checksum_of(files)")
    resolution: int = Field(description="Native side of a picture in pixels.")
    source: str = Field(description="Where the weights came from.")
    licence: str
    training_defaults: TrainingDefaults = Field(TrainingDefaults(), description=f"Contents of {TRAINING_DEFAULTS}.")
    generation_defaults: GenerationDefaults = Field(
        GenerationDefaults(), description=f"Contents of {GENERATION_DEFAULTS}."
    )


class TrainingSummary(_Record):
    steps: int
    seconds: float
    first_loss: float = Field(description="Mean training loss of the first tenth of the steps.")
    last_loss: float = Field(description="Mean training loss of the last tenth of the steps.")
    held_out_before: float = Field(description="Loss on fixed noise and timesteps never trained on, base model.")
    held_out_after: float = Field(description="The same draw, trained model.")
    samples: list[SampleCheck] = Field(description="Pictures that the trained model drew of its instance prompt.")


class SampleCheck(_Record):
    path: str
    finite: bool
    contrast: float = Field(description="Standard deviation of the pixels, 0 to 1; an all-black picture has 0.")


class Artifact(_Record):
    """artifact.json: written by the training container beside the weights, after them."""

    method: Method
    base_model: str
    base_model_checksum: str
    instance_prompt: str
    class_prompt: str | None
    concepts: list[Concept] = Field([], description="Further subjects that were trained in the same job.")
    continued_from: str | None = Field(None, description="subject@version of ours that the training started from.")
    learned_words: list[int] = Field([], description="Tokens of the words that textual inversion learned.")
    resolution: int
    hyperparameters: Hyperparameters
    training: TrainingSummary
    versions: dict[str, str] = Field(description="Library name -> version that trained it.")
    files: list[FileEntry]


class VersionManifest(_Record):
    """models/<subject>/<version>/manifest.json: written last, by the publish step."""

    subject: str
    version: str
    prefix: str = Field(description="Key prefix of the artifact's files in the data bucket; ends with a slash.")
    dataset_id: str
    training_job: str
    published_at: datetime
    artifact: Artifact

    def plain(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class PromotedVersion(_Record):
    """models/<subject>/promoted.json: what the containers know of the table's alias."""

    version: str = Field(pattern=VERSION_PATTERN)
    taken_at: datetime = Field(description="When its dataset was taken: a newer one is never replaced by an older one.")


TrainingSummary.model_rebuild()
