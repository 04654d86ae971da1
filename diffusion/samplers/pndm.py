"""PNDM: pseudo numerical methods, linear multistep of order 4. Liu et al. 2022, arXiv 2202.09778.

Its first steps are Runge-Kutta's (four predictions each), or, with skip_prk_steps, one step that is done twice.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from diffusion.samplers.course import DrawNoise, Numbers, Sampler, SamplerSettings, on_device, spaced

ORDER = 4
PREDICTIONS_A_STEP = 4
RUNGE_KUTTA = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


class Pndm(Sampler):
    ignores = ("rescale_betas_zero_snr",)

    def __init__(self, settings: SamplerSettings, steps: int, device: torch.device) -> None:
        course = spaced(settings, steps, "leading")
        self._ratio = settings.trained_steps // steps
        if settings.skip_prk_steps or steps < ORDER:
            self._by_runge_kutta = np.zeros(0)
            timesteps = np.concatenate([course[:2], course[1:]])
        else:
            self._by_runge_kutta = _runge_kutta_course(course[:ORDER], self._ratio // 2)
            timesteps = np.concatenate([self._by_runge_kutta, course[ORDER - 1 :]])
        self.timesteps = on_device(timesteps, device)
        self._course = [int(timestep) for timestep in timesteps]
        self._remaining = settings.remaining()
        self._last = 1.0 if settings.set_alpha_to_one else float(self._remaining[0])
        self._velocity = settings.predicts_velocity
        self._predictions = 0
        self._kept: list[Tensor] = []  # the newest last
        self._before = self._sum = torch.zeros(0)

    def noised(self, latents: Tensor, noise: Tensor, place: int) -> Tensor:
        left = self._remaining_at(self._course[place])
        noisy: Tensor = left**0.5 * latents + (1 - left) ** 0.5 * noise
        return noisy

    def _next(self, predicted: Tensor, latents: Tensor, place: int, draw_noise: DrawNoise) -> Tensor:
        step = self._runge_kutta if self._predictions < len(self._by_runge_kutta) else self._multistep
        moved = step(predicted, latents, self._course[place])
        self._predictions += 1
        return moved

    def _runge_kutta(self, predicted: Tensor, latents: Tensor, timestep: int) -> Tensor:
        part = self._predictions % PREDICTIONS_A_STEP
        start = int(self._by_runge_kutta[self._predictions - part])
        if part == 0:
            self._kept.append(predicted)
            self._before = latents
            self._sum = torch.zeros_like(predicted)
        self._sum = self._sum + RUNGE_KUTTA[part] * predicted
        combined = self._sum if part == PREDICTIONS_A_STEP - 1 else predicted
        following = timestep - (0 if self._predictions % 2 else self._ratio // 2)
        return self._moved(self._before, combined, start, following)

    def _multistep(self, predicted: Tensor, latents: Tensor, timestep: int) -> Tensor:
        following = timestep - self._ratio
        if self._predictions == 1:  # the first step once more, from the mean of both ends
            return self._moved(self._before, (predicted + self._kept[-1]) / 2, timestep + self._ratio, timestep)
        self._kept = [*self._kept[1 - ORDER :], predicted]
        if self._predictions == 0:
            self._before = latents
        weights = ADAMS_BASHFORTH[len(self._kept) - 1]
        combined = sum(
            (weight * kept for weight, kept in zip(weights, reversed(self._kept), strict=True)),
            start=torch.zeros_like(predicted),
        )
        return self._moved(latents, combined, timestep, following)

    def _moved(self, latents: Tensor, predicted: Tensor, timestep: int, following: int) -> Tensor:
        """Equation 9."""
        now, then = self._remaining_at(timestep), self._remaining_at(following)
        noise = now**0.5 * predicted + (1 - now) ** 0.5 * latents if self._velocity else predicted
        divisor = now * (1 - then) ** 0.5 + (now * (1 - now) * then) ** 0.5
        moved: Tensor = (then / now) ** 0.5 * latents - (then - now) / divisor * noise
        return moved

    def _remaining_at(self, timestep: int) -> float:
        return float(self._remaining[timestep]) if timestep >= 0 else self._last


def _runge_kutta_course(course: Numbers, half: int) -> Numbers:
    """Each step asks at its beginning, twice at its middle, and at its end."""
    asked = [[start, end + half, end + half, end] for start, end in pairwise(course)]
    return np.array(asked).flatten()
