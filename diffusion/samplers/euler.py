"""Euler steps over noise levels, plain and ancestral. Karras et al. 2022, arXiv 2206.00364, algorithm 2."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffusion.samplers.course import (
    DrawNoise,
    Sampler,
    SamplerSettings,
    karras,
    on_device,
    spaced,
    timesteps_at,
)


class LevelSampler(Sampler):
    """Latents are a picture of signal 1 and noise of a level."""

    def __init__(self, settings: SamplerSettings, steps: int, device: torch.device) -> None:
        trained = settings.levels()
        timesteps = spaced(settings, steps, "linspace", whole=False)
        levels = np.interp(timesteps, np.arange(len(trained)), trained)
        if settings.use_karras_sigmas:
            levels = karras(float(levels[0]), float(levels[-1]), steps)
            timesteps = timesteps_at(levels, trained)
        last = float(trained[0]) if settings.final_sigmas_type == "sigma_min" else 0.0
        self._levels = np.append(levels, last)
        spacing = settings.timestep_spacing or "linspace"
        highest = float(self._levels.max())
        self.timesteps = on_device(timesteps, device)
        self.start_scale = (highest**2 + 1) ** 0.5 if spacing == "leading" else highest
        self._velocity = settings.predicts_velocity

    def seen(self, latents: Tensor, place: int) -> Tensor:
        scaled: Tensor = latents / (float(self._levels[place]) ** 2 + 1) ** 0.5
        return scaled

    def noised(self, latents: Tensor, noise: Tensor, place: int) -> Tensor:
        return latents + float(self._levels[place]) * noise

    def _slope(self, predicted: Tensor, latents: Tensor, place: int) -> Tensor:
        """How the latents change with the level: the noise that is in them."""
        if not self._velocity:
            return predicted
        level = float(self._levels[place])
        picture = latents / (level**2 + 1) - predicted * (level / (level**2 + 1) ** 0.5)
        slope: Tensor = (latents - picture) / level
        return slope


class Euler(LevelSampler):
    def _next(self, predicted: Tensor, latents: Tensor, place: int, draw_noise: DrawNoise) -> Tensor:
        down = float(self._levels[place + 1] - self._levels[place])
        return latents + down * self._slope(predicted, latents, place)


class EulerAncestral(LevelSampler):
    """Goes below the next level, and comes back with new noise."""

    ignores = ("use_karras_sigmas", "final_sigmas_type")

    def _next(self, predicted: Tensor, latents: Tensor, place: int, draw_noise: DrawNoise) -> Tensor:
        now, following = float(self._levels[place]), float(self._levels[place + 1])
        added = (following**2 * (now**2 - following**2) / now**2) ** 0.5
        below = (following**2 - added**2) ** 0.5
        down = below - now
        moved: Tensor = latents + down * self._slope(predicted, latents, place) + added * draw_noise()
        return moved
