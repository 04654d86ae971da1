"""The diffusion process: from noise, or from a source picture with some noise on it, to pictures.

Rombach et al. 2022, arXiv 2112.10752; classifier-free guidance: Ho and Salimans 2022, arXiv 2207.12598. Every picture
has a random generator of its own, so that its neighbours in a batch do not change it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from contracts.generation import Sampling
from diffusion.autoencoder import sample_posterior
from diffusion.samplers import make_sampler
from inference_container.networks import Networks


@dataclass(frozen=True)
class Conditions:
    """What steers the pictures of one batch."""

    prompts: Tensor  # (B, tokens, width)
    negatives: Tensor | None  # the same shape; None: not guided
    guidance: Tensor  # (B, 1, 1, 1)


def new_picture(networks: Networks, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Latents (1, C, h, w) of pure noise, of unit variance."""
    shape = (1, networks.unet.config.in_channels, height // networks.vae.downscale, width // networks.vae.downscale)
    return _noise(networks, shape, generator)


def encode_source(networks: Networks, picture: Tensor, generator: torch.Generator) -> Tensor:
    """A picture (1, 3, H, W) in [-1, 1] as latents (1, C, h, w)."""
    moments = _finite(networks, networks.vae.encode, picture.to(networks.device, networks.dtype))
    shape = (1, moments.shape[1] // 2, *moments.shape[2:])
    sampled = sample_posterior(moments, _noise(networks, shape, generator)).to(networks.dtype)
    return sampled * networks.vae.config.scaling_factor


def denoise(
    networks: Networks,
    sampling: Sampling,
    conditions: Conditions,
    latents: Tensor,
    generators: Sequence[torch.Generator],
    strength: float | None = None,
) -> Tensor:
    """Latents (B, C, h, w): noise becomes pictures; with a strength, latents of pictures become others.

    At strength 1 nothing is left of them; lower strengths skip as many of the first steps.
    """
    sampler = make_sampler(sampling.scheduler, networks.scheduler_config, sampling.num_inference_steps, networks.device)

    def draw_noise() -> Tensor:
        return torch.cat([_noise(networks, (1, *latents.shape[1:]), generator) for generator in generators])

    first = 0
    if strength is None:
        latents = latents * sampler.start_scale
    else:
        first = sampling.num_inference_steps - max(1, int(sampling.num_inference_steps * strength))
        latents = sampler.noised(latents, draw_noise(), first)
    negatives = conditions.negatives
    guided = negatives is not None
    steering = conditions.prompts if negatives is None else torch.cat([negatives, conditions.prompts])
    for place in range(first, len(sampler.timesteps)):
        doubled = torch.cat([latents, latents]) if guided else latents
        predicted = networks.unet(sampler.seen(doubled, place), sampler.timesteps[place], steering)
        if guided:
            without, with_prompt = predicted.chunk(2)
            predicted = without + conditions.guidance * (with_prompt - without)
        latents = sampler.step(predicted, latents, place, draw_noise)
    return latents


def decode(networks: Networks, latents: Tensor) -> Tensor:
    """Latents (1, C, h, w) as a picture (3, H, W) in [0, 1], fp32 on the CPU; not finite where the model failed."""
    decoded = _finite(networks, networks.vae.decode, latents / networks.vae.config.scaling_factor)
    picture: Tensor = (decoded[0].float() / 2 + 0.5).clamp(0, 1).cpu()
    return picture


def _finite(networks: Networks, direction: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
    """Half precision overflows in some VAEs; then it is encoded or decoded again in fp32."""
    result = direction(given)
    if networks.dtype != torch.float16 or bool(result.isfinite().all()) or not bool(given.isfinite().all()):
        return result
    try:
        networks.vae.float()
        return direction(given.float())
    finally:  # also when memory was too small for it: the next picture is another one's
        networks.vae.half()


def _noise(networks: Networks, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=networks.dtype).to(networks.device)
