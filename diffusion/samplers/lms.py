"""Linear multistep of order 4 over noise levels of any spacing. Karras et al. 2022, arXiv 2206.00364."""

from __future__ import annotations

import numpy as np
import torch
from numpy.polynomial import Polynomial
from torch import Tensor

from diffusion.samplers.course import DrawNoise, Numbers, SamplerSettings
from diffusion.samplers.euler import LevelSampler

ORDER = 4


class Lms(LevelSampler):
    ignores = ("rescale_betas_zero_snr", "final_sigmas_type")

    def __init__(self, settings: SamplerSettings, steps: int, device: torch.device) -> None:
        super().__init__(settings, steps, device)
        self._slopes: list[Tensor] = []  # the newest first

    def _next(self, predicted: Tensor, latents: Tensor, place: int, draw_noise: DrawNoise) -> Tensor:
        self._slopes = [self._slope(predicted, latents, place), *self._slopes[: ORDER - 1]]
        # A course that begins in the middle has fewer slopes than weights at first, and leaves the others out.
        for weight, slope in zip(_weights(self._levels, place), self._slopes, strict=False):
            latents = latents + weight * slope
        return latents


def _weights(levels: Numbers, place: int) -> list[float]:
    """Of the slopes, the newest first: each one's share of the polynomial through all, integrated over the step."""
    known = levels[place - min(place, ORDER - 1) : place + 1][::-1]
    weights = []
    for own in range(len(known)):
        others = np.delete(known, own)
        share = Polynomial.fromroots(others) if len(others) else Polynomial([1.0])
        area = (share / np.prod(known[own] - others)).integ()
        weights.append(float(area(levels[place + 1]) - area(levels[place])))
    return weights
