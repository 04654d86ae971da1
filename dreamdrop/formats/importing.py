"""A one-file checkpoint to a diffusers directory. The networks are made without weights first, and say what is wanted.

diffusers can read such files too (`from_single_file`). It leaves weights that a file lacks unset and those that it does
not know aside, both in silence, and a directory that is trained on and kept for ever should depend on neither. So the
names are ours, and the tests compare the outcome with what diffusers reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from contracts.errors import InvalidBaseModel
from dreamdrop.formats.architecture import (
    Architecture,
    PredictionType,
    plain_names,
    recognise,
    scheduler_config,
    settle_prediction,
    settle_resolution,
)
from dreamdrop.formats.checkpoint import read_weights
from dreamdrop.formats.names import UNET, VAE, Part

NUMBERS = (torch.float32, torch.float16, torch.bfloat16)
NAMED = 3  # of the weights that are wrong

_DAMAGED = "Download the file again, or take another version of the model."


def convert(
    file: Path, out: Path, *, tokenizer: Path, prediction_type: PredictionType | None, resolution: int | None
) -> tuple[PredictionType, int]:
    """Writes the diffusers directory; returns what it predicts and its side in pixels.

    Raises InvalidBaseModel, or InvalidRequest for what the file does not tell.
    """
    weights = read_weights(file)
    weights = {usual: weights[name] for usual, name in plain_names(weights).items()}
    architecture = recognise({name: tuple(weight.shape) for name, weight in weights.items()})
    prediction = settle_prediction(architecture.version, prediction_type)
    side = settle_resolution(architecture.version, prediction, resolution)
    words = _read_tokenizer(tokenizer, architecture)
    _pipeline(architecture, weights, words, prediction, side).save_pretrained(out, safe_serialization=True)
    return prediction, side


def _pipeline(
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    tokenizer: CLIPTokenizer,
    prediction: PredictionType,
    side: int,
) -> StableDiffusionPipeline:
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    schedule = scheduler_config(prediction)
    with torch.device("meta"):
        vae = AutoencoderKL.from_config({**architecture.vae, "sample_size": side})
        halvings = len(architecture.vae["block_out_channels"]) - 1
        unet = UNet2DConditionModel.from_config({**architecture.unet, "sample_size": side // 2**halvings})
        text_encoder = CLIPTextModel(CLIPTextConfig(**architecture.text_encoder, **special))
    for part, network in ((UNET, unet), (VAE, vae), (architecture.text_part, text_encoder)):
        network.load_state_dict(_weights_of(part, network.state_dict(), weights), assign=True)
    unknown = {name for name in weights if name.startswith(UNET.prefix)} - UNET.by_original(unet.state_dict()).keys()
    if unknown:
        raise InvalidBaseModel(f"The UNet has more than Stable Diffusion 1.x or 2.x: {_some(unknown)}.")
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=getattr(diffusers, schedule["_class_name"]).from_config(schedule),
        safety_checker=None,  # type: ignore[arg-type]  # optional, though not by its hint
        feature_extractor=None,  # type: ignore[arg-type]  # the same
        requires_safety_checker=False,
    )


def _weights_of(part: Part, wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part's weights under diffusers' names. `wanted`: those names with their shapes."""
    sources = part.by_original(wanted)
    missing = sources.keys() - weights.keys()
    if missing:
        raise InvalidBaseModel(f"The file lacks weights of the {part.folder}: {_some(missing)}.", _DAMAGED)
    found: dict[str, Tensor] = {}
    for original, names in sources.items():
        weight = weights[original]
        _check_numbers(original, weight)
        pieces = [weight] if len(names) == 1 else [piece.clone() for piece in weight.chunk(len(names))]
        for name, piece in zip(names, pieces, strict=True):
            found[name] = _shaped(original, piece, wanted[name].shape)
    return found


def _check_numbers(name: str, weight: Tensor) -> None:
    if weight.dtype not in NUMBERS:
        raise InvalidBaseModel(f"{name} is stored as {weight.dtype}.", "Take a version in fp32, fp16 or bf16.")
    if not torch.isfinite(weight).all():
        raise InvalidBaseModel(f"{name} holds numbers that are not finite (NaN or infinite).", _DAMAGED)


def _shaped(name: str, weight: Tensor, shape: torch.Size) -> Tensor:
    """Linear layers of the original autoencoder are convolutions of one pixel."""
    if weight.numel() != shape.numel() or weight.shape[: len(shape)] != shape:
        raise InvalidBaseModel(f"{name} has the shape {list(weight.shape)}, wanted is {list(shape)}.", _DAMAGED)
    return weight.reshape(shape)


def _some(names: set[str]) -> str:
    """The first few, and how many there are."""
    first = sorted(names)[:NAMED]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(first) + more


def _read_tokenizer(directory: Path, architecture: Architecture) -> CLIPTokenizer:
    """CLIP's vocabulary, padded as the text encoder was trained: with its last word, or OpenCLIP's with its first."""
    wanted: dict[str, Any] = architecture.text_encoder
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(directory, local_files_only=True)
    if len(tokenizer) != wanted["vocab_size"]:
        raise InvalidBaseModel(
            f"The tokenizer in {directory} has {len(tokenizer)} words, the text encoder {wanted['vocab_size']}.",
            "Name the tokenizer of this model, or of any Stable Diffusion: --tokenizer DIR",
        )
    padding = tokenizer.eos_token if architecture.version == 1 else tokenizer.convert_ids_to_tokens(0)
    tokenizer.pad_token = padding
    tokenizer.model_max_length = wanted["max_position_embeddings"]
    return tokenizer
