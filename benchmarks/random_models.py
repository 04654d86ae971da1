"""Stable Diffusion directories with random weights, each from a seed and its own name alone.

So another version of a library, or other words in our own base models, leave them as they are.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from toyworld.tiny import PredictionType, build_text_encoder, build_unet, build_vae
from training_container.dreambooth.draws import generator_for

SEED = 0
MAX_TOKENS = 77
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
BIAS_SCALE = 0.1
VAE_FACTOR = 8


def build_tiny(out: Path, prediction_type: PredictionType) -> Path:
    """64 x 64 pixels, 8 x 8 latents: a training step takes hundredths of a second."""
    tokenizer = byte_tokenizer()
    return write_pipeline(out, tokenizer, build_text_encoder(tokenizer), build_vae(), build_unet(), prediction_type)


def build_sd21(out: Path, resolution: int, shrink: int = 1, text_layers: int = 23) -> Path:
    """Stable Diffusion 2.1-base, every width divided by `shrink`; with the defaults as large as the original.

    Prompts are as long for small pictures as for large ones, so small ones want fewer layers of the text encoder to
    keep its part of the arithmetic.
    """
    tokenizer = byte_tokenizer()
    width = 1024 // shrink
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408 // shrink,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=text_layers,
            num_attention_heads=16,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    vae = AutoencoderKL(
        block_out_channels=tuple(channels // shrink for channels in (128, 256, 512, 512)),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32 // shrink,
        sample_size=resolution,
    )
    unet = UNet2DConditionModel(
        sample_size=resolution // VAE_FACTOR,
        block_out_channels=tuple(channels // shrink for channels in (320, 640, 1280, 1280)),
        layers_per_block=2,
        cross_attention_dim=width,
        attention_head_dim=(5, 10, 20, 20),  # how many, in spite of its name
        use_linear_projection=True,
        norm_num_groups=32 // shrink,
    )
    return write_pipeline(out, tokenizer, text_encoder, vae, unet, "epsilon")


def byte_tokenizer() -> CLIPTokenizer:
    """Every byte is a token."""
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), BEGIN, END]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)}, merges=[], model_max_length=MAX_TOKENS
    )


@torch.no_grad()
def fill(module: torch.nn.Module, part: str) -> None:
    """Normal, scaled to keep a signal's variance; biases are not zero, so that every weight counts."""
    for name, weight in module.named_parameters():
        draw = torch.randn(weight.shape, generator=generator_for(SEED, f"{part}.{name}"))
        if weight.dim() > 1:
            weight.copy_(draw / math.sqrt(weight[0].numel()))
        else:
            weight.copy_(BIAS_SCALE * draw + (1 if "norm" in name and name.endswith("weight") else 0))


def write_pipeline(
    out: Path,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    prediction_type: PredictionType,
) -> Path:
    """A diffusers directory with Stable Diffusion's noise schedule."""
    for part, module in (("vae", vae), ("unet", unet), ("text_encoder", text_encoder)):
        fill(module, part)
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,  # type: ignore[arg-type]  # optional, though not by its hint
        feature_extractor=None,  # type: ignore[arg-type]  # the same
        requires_safety_checker=False,
    ).save_pretrained(out, safe_serialization=True)
    return out
