"""DPM-Solver++ as a multistep method. Lu et al. 2022, arXiv 2211.01095.

And what UniPC shares with it: signal, noise and half the log of their ratio at each place of a course.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffusion.samplers.course import (
    DrawNoise,
    Numbers,
    Sampler,
    SamplerSettings,
    karras,
    on_device,
    spaced,
    timesteps_at,
)

FEW_STEPS = 15  # below it the last steps are of lower order


@dataclass(frozen=True)
class Course:
    """Of one place more than it has steps."""

    signal: Numbers
    noise: Numbers
    ratio: Numbers  # lambda: the log of signal to noise; infinite where no noise is left

    @classmethod
    def over(cls, levels: Numbers) -> Course:
        signal = 1 / np.sqrt(levels**2 + 1)
        with np.errstate(divide="ignore"):
            return cls(signal, levels * signal, -np.log(levels))


class PictureSampler(Sampler):
    """Works with the picture that each prediction means."""

    def __init__(self, settings: SamplerSettings, steps: int, device: torch.device) -> None:
        trained = settings.levels()
        timesteps = spaced(settings, steps, "linspace", left_out=1)
        if settings.use_karras_sigmas:
            levels = karras(float(trained[-1]), float(trained[0]), steps)
            timesteps = timesteps_at(levels, trained).round()
        else:
            levels = np.interp(timesteps, np.arange(len(trained)), trained)
        self.timesteps = on_device(timesteps, device)
        last = float(trained[0]) if settings.final_sigmas_type == "sigma_min" else 0.0
        self._course = Course.over(np.append(levels, last))
        self._settings = settings
        self._steps = len(timesteps)
        self._pictures: list[Tensor] = []  # the newest first

    def noised(self, latents: Tensor, noise: Tensor, place: int) -> Tensor:
        return float(self._course.signal[place]) * latents + float(self._course.noise[place]) * noise

    def _picture(self, predicted: Tensor, latents: Tensor, place: int) -> Tensor:
        signal, noise = float(self._course.signal[place]), float(self._course.noise[place])
        if self._settings.predicts_velocity:
            return signal * latents - noise * predicted
        return (latents - noise * predicted) / signal


class DpmSolver(PictureSampler):
    def _next(self, predicted: Tensor, latents: Tensor, place: int, draw_noise: DrawNoise) -> Tensor:
        self._pictures = [self._picture(predicted, latents, place), *self._pictures[:2]]
        order = min(self._settings.solver_order, len(self._pictures), self._highest_order(place))
        course = self._course
        ahead = float(course.ratio[place + 1] - course.ratio[place])
        decay = math.expm1(-ahead)
        moved = float(course.noise[place + 1] / course.noise[place]) * latents
        signal = float(course.signal[place + 1])
        moved = moved - signal * decay * self._pictures[0]
        if order == 1:
            return moved
        ratios = [
            float(course.ratio[place - back] - course.ratio[place - back - 1]) / ahead for back in range(order - 1)
        ]
        slope = (self._pictures[0] - self._pictures[1]) / ratios[0]
        bend = signal * (decay / ahead + 1)
        if order == 2:
            return moved + (bend if self._settings.solver_type == "heun" else -0.5 * signal * decay) * slope
        before = (self._pictures[1] - self._pictures[2]) / ratios[1]
        curve = (slope - before) / (ratios[0] + ratios[1])
        return moved + bend * (slope + ratios[0] * curve) - signal * ((decay + ahead) / ahead**2 - 0.5) * curve

    def _highest_order(self, place: int) -> int:
        """Lower at the end, where the last of few steps are long."""
        settings, left = self._settings, self._steps - place
        few = settings.lower_order_final and self._steps < FEW_STEPS
        if left == 1 and (few or settings.euler_at_final or settings.final_sigmas_type == "zero"):
            return 1
        return 2 if left == 2 and few else settings.solver_order
