"""Pictures as VAE moments, encoded once: the posterior is still drawn anew at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from torch import Tensor

from training_container.dreambooth.precision import Precision


def to_tensor(picture: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) fp32 in [-1, 1]."""
    pixels = np.asarray(picture, dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1.0).permute(2, 0, 1).contiguous()


def encode_moments(vae: AutoencoderKL, pictures: Sequence[Image.Image], precision: Precision) -> Tensor:
    """(N, 2C, h, w) fp32 on the device: mean and log variance. One picture at a time keeps the peak memory small.

    Half precision overflows in some VAEs; a picture whose moments are not finite is encoded again in fp32.
    """
    return torch.cat(
        [_encode_one(vae, to_tensor(picture)[None].to(precision.device), precision) for picture in pictures]
    )


@torch.no_grad()
def _encode_one(vae: AutoencoderKL, pixels: Tensor, precision: Precision) -> Tensor:
    with precision.autocast():
        moments: Tensor = vae.encode(pixels).latent_dist.parameters.float()
    if not bool(moments.isfinite().all()):
        moments = vae.encode(pixels).latent_dist.parameters.float()
    return moments


def scaling_factor_of(vae: AutoencoderKL) -> float:
    """Latents x this have about unit variance."""
    config: Any = vae.config
    return float(config.scaling_factor)


def latent_shape(vae: AutoencoderKL, side: int) -> tuple[int, int, int, int]:
    """(1, C, h, w) of a square picture of `side` pixels."""
    config: Any = vae.config
    small = side // 2 ** (len(config.block_out_channels) - 1)
    return 1, config.latent_channels, small, small


def sample_posterior(moments: Tensor, draw: Tensor) -> Tensor:
    """mean + std x draw, (B, C, h, w) in fp32; the log variance is clamped as the VAE itself does."""
    mean, log_variance = moments.float().chunk(2, dim=1)
    return mean + torch.exp(0.5 * log_variance.clamp(-30.0, 20.0)) * draw
