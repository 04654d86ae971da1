"""The networks of Stable Diffusion, read from diffusers directories: safetensors only, half precision on a GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError

from contracts.artifact import BaseModelManifest
from contracts.errors import InvalidBaseModel
from diffusion.autoencoder import Autoencoder
from diffusion.exhaustion import LASTING
from diffusion.exhaustion import is_out_of_memory as is_out_of_memory  # for all of this package
from diffusion.files import read_autoencoder, read_text_encoder, read_unet
from diffusion.samplers import make_sampler
from diffusion.text_encoder import TextEncoder
from diffusion.tokenizer import Tokenizer
from diffusion.unet import UNet
from diffusion.verification import begin_verification

# What is raised when files do not fit each other.
LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)

Network = TypeVar("Network", bound=torch.nn.Module)


@dataclass(frozen=True, eq=False)
class Networks:
    tokenizer: Tokenizer
    text_encoder: TextEncoder
    unet: UNet
    vae: Autoencoder
    scheduler_config: dict[str, Any]
    dtype: torch.dtype  # what is computed in

    @property
    def device(self) -> torch.device:
        return self.vae.decoder.conv_in.weight.device


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
            tokenizer=Tokenizer.from_directory(directory / "tokenizer"),
            text_encoder=_read(read_text_encoder, directory / "text_encoder", device),
            unet=_read(read_unet, directory / "unet", device),
            vae=_read(read_autoencoder, directory / "vae", device),
            scheduler_config=json.loads((directory / "scheduler" / "scheduler_config.json").read_text()),
            dtype=_dtype_on(device),
        )
        make_sampler("ddim", networks.scheduler_config, 1)  # its settings are read when a picture is drawn: too late
    except LOADING_ERRORS as error:
        raise InvalidBaseModel(f"The base model {manifest.id} cannot be loaded: {error}.") from error
    return BaseModel(manifest, networks)


def read_trained(directory: Path, base: Networks) -> Networks:
    """A full model: the parts that the directory has, the others of the base model. Raises LOADING_ERRORS."""
    trained: dict[str, Any] = {}
    if (directory / "unet").is_dir():
        trained["unet"] = _read(read_unet, directory / "unet", base.device)
    if (directory / "text_encoder").is_dir():
        trained["text_encoder"] = _read(read_text_encoder, directory / "text_encoder", base.device)
    return replace(base, **trained)


def _read(read: Callable[[Path, torch.dtype], Network], folder: Path, device: torch.device) -> Network:
    """Raises LOADING_ERRORS, OSError where only pickled weights exist."""
    return read(folder, _dtype_on(device)).to(device)


def _dtype_on(device: torch.device) -> torch.dtype:
    return torch.float16 if device.type == "cuda" else torch.float32


def outlasts_its_cause(error: BaseException) -> bool:
    """The process is of no more use after it."""
    return LASTING in str(error)
