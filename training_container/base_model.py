"""The imported base model's parts, loaded from safetensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from contracts.artifact import BaseModelManifest
from contracts.errors import InvalidBaseModel
from diffusion.autoencoder import Autoencoder
from diffusion.exhaustion import is_out_of_memory
from diffusion.files import read_autoencoder, read_text_encoder, read_unet
from diffusion.samplers import make_sampler
from diffusion.text_encoder import TextEncoder
from diffusion.tokenizer import Tokenizer
from diffusion.unet import UNet
from training_container.dreambooth.sampling import SAMPLER, SAMPLING_STEPS


@dataclass
class BaseModel:
    """All weights in fp32 on the CPU, frozen, in evaluation mode."""

    manifest: BaseModelManifest
    tokenizer: Tokenizer
    text_encoder: TextEncoder
    vae: Autoencoder
    unet: UNet
    scheduler_config: dict[str, object]


def frame_multiple(directory: Path) -> int:
    """Pixels: every network of the model halves a side of such a multiple without a remainder.

    Raises InvalidBaseModel.
    """
    try:
        levels = [
            len(json.loads((directory / part / "config.json").read_text())["block_out_channels"])
            for part in ("vae", "unet")
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidBaseModel(f"The base model's configuration cannot be read ({error}).") from error
    return int(2 ** (sum(levels) - 2))


def load_base_model(directory: Path, manifest: BaseModelManifest) -> BaseModel:
    """Raises InvalidBaseModel if a part does not load or is not a Stable Diffusion part."""
    try:
        vae = read_autoencoder(directory / "vae")
        unet = read_unet(directory / "unet")
        text_encoder = read_text_encoder(directory / "text_encoder")
        tokenizer = Tokenizer.from_directory(directory / "tokenizer")
        scheduler_config = json.loads((directory / "scheduler" / "scheduler_config.json").read_text())
        make_sampler(SAMPLER, scheduler_config, SAMPLING_STEPS)  # rather now than when the training is done
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        text = f"{type(error).__name__}: {error}"[:300]
        raise InvalidBaseModel(f"The base model {manifest.id} does not load ({text}).") from error
    if unet.config.in_channels != vae.config.latent_channels:
        raise InvalidBaseModel(f"The base model {manifest.id} is not an ordinary text-to-image model.")
    return BaseModel(manifest, tokenizer, text_encoder, vae, unet, scheduler_config)
