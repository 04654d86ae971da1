"""DDIM without added noise. Song et al. 2020, arXiv 2010.02502, equation 12."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.samplers.course import DrawNoise, Sampler, SamplerSettings, on_device, spaced


class Ddim(Sampler):
    def __init__(self, settings: SamplerSettings, steps: int, device: torch.device) -> None:
        timesteps = spaced(settings, steps, "leading")
        self.timesteps = on_device(timesteps, device)
        remaining = settings.remaining()
        last = 1.0 if settings.set_alpha_to_one in (None, True) else remaining[0]
        following = timesteps.astype(int) - settings.trained_steps // steps
        self._now = remaining[timesteps.astype(int)]
        self._next_one = [remaining[timestep] if timestep >= 0 else last for timestep in following]
        self._velocity = settings.predicts_velocity
        self._clips = settings.clip_sample in (None, True)
        self._range = settings.clip_sample_range

    def noised(self, latents: Tensor, noise: Tensor, place: int) -> Tensor:
        left = float(self._now[place])
        noisy: Tensor = left**0.5 * latents + (1 - left) ** 0.5 * noise
        return noisy

    def _next(self, predicted: Tensor, latents: Tensor, place: int, draw_noise: DrawNoise) -> Tensor:
        now, following = float(self._now[place]), float(self._next_one[place])
        if self._velocity:
            picture = now**0.5 * latents - (1 - now) ** 0.5 * predicted
            noise = now**0.5 * predicted + (1 - now) ** 0.5 * latents
        else:
            picture = (latents - (1 - now) ** 0.5 * predicted) / now**0.5
            noise = predicted
        if self._clips:
            picture = picture.clamp(-self._range, self._range)
        moved: Tensor = following**0.5 * picture + (1 - following) ** 0.5 * noise
        return moved
