"""The picture autoencoder: 64 x 64 x 3 pixels to 16 x 16 x 8 latents of zero mean and unit variance, and back."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from toyworld.pictures import SIDE, Album
from toyworld.pretraining.fit import Recipe, device, fit, place
from toyworld.pretraining.views import as_tensor

LATENT_CHANNELS = 8
FACTOR = 4
RECIPE = Recipe(steps=4500, batch=16, learning_rate=2e-3, weight_decay=0.0, seed=11)
KL_WEIGHT = 1e-4
EDGE_WEIGHT = 0.5
FIRST_LOG_VARIANCE = -6.0
CROP = 48  # pixels: trained on parts of pictures, which costs half as much


def build_autoencoder() -> AutoencoderKL:
    vae: AutoencoderKL = AutoencoderKL(
        block_out_channels=(24, 48, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIDE,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    with torch.no_grad():  # a posterior that is nearly free of noise learns to copy first
        weight, bias = _parameters(vae.quant_conv)
        weight[LATENT_CHANNELS:] = 0
        bias[LATENT_CHANNELS:] = FIRST_LOG_VARIANCE
    return vae


def edges(pictures: Tensor) -> tuple[Tensor, Tensor]:
    return pictures[..., 1:] - pictures[..., :-1], pictures[..., 1:, :] - pictures[..., :-1, :]


def train_autoencoder(folder: Path, albums: list[Album], held_out: Album, recipe: Recipe = RECIPE) -> AutoencoderKL:
    torch.manual_seed(recipe.seed)
    vae = place(build_autoencoder())
    total = sum(len(album) for album in albums)

    def picked(numbers: list[int], left: int, top: int) -> Tensor:
        chosen = []
        for number in numbers:
            for album in albums:
                if number < len(album):
                    chosen.append(album.pictures[number])
                    break
                number -= len(album)
        return as_tensor(np.stack(chosen)[:, top : top + CROP, left : left + CROP], device())

    def loss_at(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        left, top = torch.randint(0, SIDE - CROP + 1, (2,), generator=generator).tolist()
        pictures = picked(torch.randint(0, total, (recipe.batch,), generator=generator).tolist(), left, top)
        posterior = vae.encode(pictures).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(pictures.device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        error = decoded - pictures
        squared = error.pow(2).mean()
        slopes = sum((a - b).abs().mean() for a, b in zip(edges(decoded), edges(pictures), strict=True))
        kl = 0.5 * (posterior.mean.pow(2) + posterior.var - 1 - posterior.logvar).mean()
        loss = 0.5 * error.abs().mean() + squared + EDGE_WEIGHT * slopes + KL_WEIGHT * kl
        return loss, {"psnr": decibels(squared.item()), "kl": kl.item()}

    def examine() -> dict[str, float]:
        pictures = as_tensor(held_out.pictures[:256], device())
        decoded = vae.decode(vae.encode(pictures).latent_dist.mode()).sample.clamp(-1, 1)
        return {"held_out_psnr": decibels((decoded - pictures).pow(2).mean().item())}

    fit(folder, {"vae": vae}, recipe, loss_at, examine)
    with torch.no_grad():
        latents = torch.cat(
            [
                vae.encode(as_tensor(albums[0].pictures[i : i + 64], device())).latent_dist.mean
                for i in range(0, 2048, 64)
            ]
        )
    normalise_latents(vae, latents)
    return vae


def decibels(squared_error: float) -> float:
    """Peak signal to noise for values in [-1, 1]."""
    return 10 * math.log10(4 / max(squared_error, 1e-9))


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, latents: Tensor) -> None:
    """Folds each channel's mean and deviation into the two 1 x 1 convolutions: same pictures, unit-variance latents."""
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    weight, bias = _parameters(vae.quant_conv)
    weight[:LATENT_CHANNELS] /= deviation[:, None, None, None]
    bias[:LATENT_CHANNELS] = (bias[:LATENT_CHANNELS] - mean) / deviation
    bias[LATENT_CHANNELS:] -= 2 * deviation.log()
    back_weight, back_bias = _parameters(vae.post_quant_conv)
    back_bias += back_weight[:, :, 0, 0] @ mean
    back_weight *= deviation[None, :, None, None]


def _parameters(convolution: nn.Conv2d | None) -> tuple[Tensor, Tensor]:
    if convolution is None or convolution.bias is None:
        raise ValueError("this autoencoder has no 1 x 1 convolution with a bias around its latents")
    return convolution.weight, convolution.bias
