"""The imported base model's parts, loaded from safetensors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from contracts.artifact import BaseModelManifest
from contracts.errors import InvalidBaseModel
from training_container.dreambooth.schedule import NoiseSchedule
from training_container.failures import is_out_of_memory


@dataclass
class BaseModel:
    """All weights in fp32 on the CPU, frozen, in evaluation mode."""

    manifest: BaseModelManifest
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel
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
    options = {"torch_dtype": torch.float32, "use_safetensors": True, "local_files_only": True}
    try:
        vae = AutoencoderKL.from_pretrained(directory, subfolder="vae", **options)
        unet = UNet2DConditionModel.from_pretrained(directory, subfolder="unet", **options)
        text_encoder = CLIPTextModel.from_pretrained(
            directory / "text_encoder", dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        tokenizer = CLIPTokenizer.from_pretrained(directory / "tokenizer", local_files_only=True)
        scheduler_config = json.loads((directory / "scheduler" / "scheduler_config.json").read_text())
        NoiseSchedule.from_scheduler_config(scheduler_config)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        text = f"{type(error).__name__}: {error}"[:300]
        raise InvalidBaseModel(f"The base model {manifest.id} does not load ({text}).") from error
    if unet.config.in_channels != vae.config.latent_channels or unet.config.cross_attention_dim is None:
        raise InvalidBaseModel(f"The base model {manifest.id} is not an ordinary text-to-image model.")
    for part in (vae, unet, text_encoder):
        part.requires_grad_(False).eval()
    return BaseModel(manifest, tokenizer, text_encoder, vae, unet, scheduler_config)
