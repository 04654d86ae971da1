"""Diffusers directories to pipelines ready to draw: safetensors only, no safety checker, half precision on a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from pydantic import ValidationError
from safetensors import SafetensorError
from transformers import CLIPTextModel
from transformers.utils import logging as transformers_logging

from contracts.artifact import REQUIRED_BASE_MODEL_FILES, BaseModelManifest, checksum_of
from contracts.errors import InvalidBaseModel
from contracts.storage import MANIFEST
from inference_container.files import DamagedFile, verify

Pipeline: TypeAlias = Any  # a StableDiffusionPipeline, whose methods diffusers does not type

# What diffusers, transformers and peft raise when files do not fit each other.
LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)

_OUT_OF_MEMORY_PHRASES = ("not enough memory", "allocate memory", "STATUS_ALLOC_FAILED")

# What a training can change, and the class that reads it.
_TRAINABLE: dict[str, Any] = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}

for library in (diffusers_logging, transformers_logging):
    library.set_verbosity_error()
    library.disable_progress_bar()


@dataclass(frozen=True)
class BaseModel:
    directory: Path
    manifest: BaseModelManifest
    pipeline: Pipeline


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_base_model(directory: Path, device: torch.device) -> BaseModel:
    """Verifies every file against manifest.json first. Raises InvalidBaseModel."""
    try:
        manifest = BaseModelManifest.model_validate_json((directory / MANIFEST).read_bytes())
        verify(directory, manifest.files)
    except (OSError, ValidationError, DamagedFile) as error:
        raise InvalidBaseModel(f"The base model in {directory} is not usable: {error}.") from error
    described = {entry.path for entry in manifest.files}
    if manifest.checksum != checksum_of(manifest.files) or not described.issuperset(REQUIRED_BASE_MODEL_FILES):
        raise InvalidBaseModel(f"The manifest of the base model {manifest.id} contradicts itself.")
    try:
        pipeline = load_pipeline(directory, device)
    except LOADING_ERRORS as error:
        raise InvalidBaseModel(f"The base model {manifest.id} cannot be loaded: {error}.") from error
    return BaseModel(directory, manifest, pipeline)


def load_pipeline(directory: Path, device: torch.device, trained: Path | None = None) -> Pipeline:
    """Parts that `trained` has come from there, the others from `directory`.

    Raises LOADING_ERRORS, OSError where only pickled weights exist.
    """
    options: dict[str, Any] = {
        "dtype": torch.float16 if device.type == "cuda" else torch.float32,
        "use_safetensors": True,
        "local_files_only": True,
    }
    parts = {
        name: reader.from_pretrained(trained / name, **options)
        for name, reader in _TRAINABLE.items()
        if trained is not None and (trained / name).is_dir()
    }
    pipeline: Pipeline = StableDiffusionPipeline.from_pretrained(  # type: ignore[no-untyped-call]
        directory, safety_checker=None, feature_extractor=None, requires_safety_checker=False, **options, **parts
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def weight_bytes(pipeline: Pipeline) -> int:
    """Bytes that the pipeline's weights take in memory."""
    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    return sum(weight.numel() * weight.element_size() for module in modules for weight in module.parameters())


def is_out_of_memory(error: BaseException) -> bool:
    """PyTorch has a type for a full GPU only; its allocator for the CPU and its libraries raise RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        phrase in str(error) for phrase in _OUT_OF_MEMORY_PHRASES
    )
