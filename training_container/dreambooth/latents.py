"""Pictures as VAE moments, encoded once: the posterior is still drawn anew at every step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusion.autoencoder import Autoencoder
from training_container.dreambooth.precision import Precision, send


def to_tensor(picture: Image.Image) -> Tensor:
    """RGB picture -> (3, H, W) fp32 in [-1, 1]."""
    pixels = np.asarray(picture, dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1.0).permute(2, 0, 1).contiguous()


def encode_moments(vae: Autoencoder, pictures: Sequence[Image.Image], precision: Precision) -> Tensor:
    """(N, 2C, h, w) fp32 on the device: mean and log variance. One picture at a time keeps the peak memory small.

    Half precision overflows in some VAEs; a picture whose moments are not finite is encoded again in fp32.
    """
    return torch.cat(
        [_encode_one(vae, send(to_tensor(picture)[None], precision.device), precision) for picture in pictures]
    )


@torch.no_grad()
def _encode_one(vae: Autoencoder, pixels: Tensor, precision: Precision) -> Tensor:
    with precision.autocast():
        moments: Tensor = vae.encode(pixels).float()
    if not bool(moments.isfinite().all()):
        moments = vae.encode(pixels).float()
    return moments


def latent_shape(vae: Autoencoder, side: int) -> tuple[int, int, int, int]:
    """(1, C, h, w) of a square picture of `side` pixels."""
    return 1, vae.config.latent_channels, side // vae.downscale, side // vae.downscale
