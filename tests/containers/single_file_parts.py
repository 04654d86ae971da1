"""Tiny random models that have Stable Diffusion's structure to the letter: four levels, two layers each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from toyworld.tokenizer import MAX_TOKENS, build_tokenizer

RESOLUTION = 64
WIDTH = 64  # the narrowest that one head of 64 and groups of 32 allow
PROMPT = "a photo of a robot"


def build_small(out: Path, version: Literal[1, 2], *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """Writes a diffusers directory as Stable Diffusion 1.x's (CLIP, convolutions) or 2.x's (OpenCLIP, linear)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer()
        if version == 2:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=2,
                num_attention_heads=1,
                max_position_embeddings=MAX_TOKENS,
                hidden_act="quick_gelu" if version == 1 else "gelu",
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        vae = AutoencoderKL(
            block_out_channels=(32, 32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=RESOLUTION,
        )
        unet = UNet2DConditionModel(
            sample_size=RESOLUTION // 8,
            block_out_channels=(WIDTH,) * 4 if version == 1 else (WIDTH, WIDTH, WIDTH, 2 * WIDTH),
            layers_per_block=2,
            cross_attention_dim=WIDTH,
            attention_head_dim=8 if version == 1 else (1, 1, 1, 2),
            use_linear_projection=version == 2,
        )
        for network in (text_encoder, vae, unet):  # the usual start leaves biases at zero and norms at one: all alike
            for weight in network.parameters():
                weight.data += 0.02 * torch.randn_like(weight)
            network.to(dtype)
    schedule: dict[str, Any] = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    scheduler = (
        PNDMScheduler(skip_prk_steps=True, **schedule)
        if version == 1
        else DDIMScheduler(prediction_type="v_prediction", clip_sample=False, **schedule)
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out)
    return out


def aligned(pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """Weights that are mapped from a file lie at odd addresses, where the last bit of a sum may differ."""
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        network.load_state_dict({name: weight.clone() for name, weight in network.state_dict().items()}, assign=True)
    return pipeline


def draw(pipeline: StableDiffusionPipeline) -> Image.Image:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    drawn: Image.Image = pipeline(PROMPT, num_inference_steps=3, generator=generator).images[0]
    return drawn
