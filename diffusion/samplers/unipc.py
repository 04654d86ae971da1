"""UniPC: each step predicts, and the next prediction corrects it. Zhao et al. 2023, arXiv 2302.04867."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from diffusion.samplers.course import DrawNoise, Numbers, SamplerSettings
from diffusion.samplers.dpmsolver import PictureSampler


class UniPc(PictureSampler):
    def __init__(self, settings: SamplerSettings, steps: int, device: torch.device) -> None:
        super().__init__(settings, steps, device)
        self._start: Tensor | None = None  # of the step that the next prediction corrects
        self._order = 0  # of that step

    def _next(self, predicted: Tensor, latents: Tensor, place: int, draw_noise: DrawNoise) -> Tensor:
        picture = self._picture(predicted, latents, place)
        if self._start is not None:
            latents = self._moved(self._start, place - 1, self._order, corrected_by=picture)
        self._pictures = [picture, *self._pictures[: self._settings.solver_order - 1]]
        self._order = min(self._settings.solver_order, len(self._pictures))
        if self._settings.lower_order_final:
            self._order = min(self._order, self._steps - place)
        self._start = latents
        return self._moved(latents, place, self._order)

    def _moved(self, latents: Tensor, place: int, order: int, corrected_by: Tensor | None = None) -> Tensor:
        """From a place to the next one, by the newest pictures; corrected by the one that was predicted there."""
        course = self._course
        ahead = float(course.ratio[place + 1] - course.ratio[place])
        decay = math.expm1(-ahead)
        scale = -ahead if self._settings.solver_type == "bh1" else decay
        newest, signal = self._pictures[0], float(course.signal[place + 1])
        moved = float(course.noise[place + 1] / course.noise[place]) * latents - signal * decay * newest
        distances = [float(course.ratio[place - back] - course.ratio[place]) / ahead for back in range(1, order)]
        slopes = [
            (picture - newest) / distance for picture, distance in zip(self._pictures[1:order], distances, strict=True)
        ]
        if corrected_by is not None:
            distances.append(1.0)
            slopes.append(corrected_by - newest)
        for weight, slope in zip(_weights(distances, ahead, scale), slopes, strict=True):
            moved = moved - signal * scale * float(weight) * slope
        return moved


def _weights(distances: list[float], ahead: float, scale: float) -> Numbers:
    """Of the slopes: what makes the step exact for polynomials of that degree (section 3.1)."""
    count = len(distances)
    if count < 2:  # exact would be a number near it; the paper takes a half
        return np.full(count, 0.5)
    moments = []
    phi = math.expm1(-ahead) / -ahead - 1
    for degree in range(1, count + 1):
        moments.append(phi * math.factorial(degree) / scale)
        phi = phi / -ahead - 1 / math.factorial(degree + 1)
    return np.linalg.solve(np.vander(distances, increasing=True).T, np.array(moments))
