"""The networks of Stable Diffusion, read from diffusers directories: safetensors only, half precision on a GPU."""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer
from transformers.utils import logging as transformers_logging

from contracts.artifact import BaseModelManifest
from contracts.errors import InvalidBaseModel
from inference_container.base_files import begin_verification

# What diffusers, transformers and safetensors raise when files do not fit each other.
LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)

# oneDNN on the CPU says no more than this, and goes on saying it when there is memory again.
_LASTING = "could not create a primitive"
_OUT_OF_MEMORY_PHRASES = ("not enough memory", "allocate memory", "STATUS_ALLOC_FAILED", _LASTING)

for library in (diffusers_logging, transformers_logging):
    library.set_verbosity_error()
    library.disable_progress_bar()


@dataclass(frozen=True, eq=False)
class Networks:
    tokenizer: CLIPTokenizer
    text_encoder: Any  # a CLIPTextModel; as the other two, called in ways that its library does not type
    unet: Any  # a UNet2DConditionModel
    vae: Any  # an AutoencoderKL
    scheduler_config: dict[str, Any]

    @property
    def device(self) -> torch.device:
        device: torch.device = self.vae.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.vae.dtype
        return dtype

    @property
    def latent_side(self) -> int:
        """Pixels of a picture that one latent stands for."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))


@dataclass(frozen=True)
class BaseModel:
    manifest: BaseModelManifest
    networks: Networks


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_base_model(
    directory: Path, device: torch.device, verification: Future[BaseModelManifest] | None = None
) -> BaseModel:
    """Every file is verified first; that may have begun before. Raises InvalidBaseModel."""
    manifest = (verification or begin_verification(directory)).result()
    try:
        networks = Networks(
            tokenizer=CLIPTokenizer.from_pretrained(directory / "tokenizer", local_files_only=True),
            text_encoder=read_text_encoder(directory, device),
            unet=read_unet(directory, device),
            vae=_read(AutoencoderKL, directory / "vae", device),
            scheduler_config=json.loads((directory / "scheduler" / "scheduler_config.json").read_text()),
        )
    except LOADING_ERRORS as error:
        raise InvalidBaseModel(f"The base model {manifest.id} cannot be loaded: {error}.") from error
    return BaseModel(manifest, networks)


def read_trained(directory: Path, base: Networks) -> Networks:
    """A full model: the parts that the directory has, the others of the base model. Raises LOADING_ERRORS."""
    trained: dict[str, Any] = {}
    if (directory / "unet").is_dir():
        trained["unet"] = read_unet(directory, base.device)
    if (directory / "text_encoder").is_dir():
        trained["text_encoder"] = read_text_encoder(directory, base.device)
    return replace(base, **trained)


def read_unet(directory: Path, device: torch.device) -> Any:
    return _read(UNet2DConditionModel, directory / "unet", device)


def read_text_encoder(directory: Path, device: torch.device) -> Any:
    return _read(CLIPTextModel, directory / "text_encoder", device)


def _read(reader: Any, directory: Path, device: torch.device) -> Any:
    """Raises LOADING_ERRORS, OSError where only pickled weights exist."""
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    module = reader.from_pretrained(directory, dtype=dtype, use_safetensors=True, local_files_only=True)
    return module.requires_grad_(False).eval().to(device)


def is_out_of_memory(error: BaseException) -> bool:
    """PyTorch has a type for a full GPU only; its allocator for the CPU and its libraries raise RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        phrase in str(error) for phrase in _OUT_OF_MEMORY_PHRASES
    )


def outlasts_its_cause(error: BaseException) -> bool:
    """The process is of no more use after it."""
    return _LASTING in str(error)
