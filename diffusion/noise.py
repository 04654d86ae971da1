"""The noise schedule that a base model was trained with: how much of a picture is left at each timestep.

Always in fp32 or finer: rounding it to half precision before 1 - a loses the noise of the first timesteps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion.configuration import UnsupportedModel

EPSILON, VELOCITY = "epsilon", "v_prediction"
PREDICTIONS = (EPSILON, VELOCITY)
MOST_BETA = 0.999


@dataclass(frozen=True)
class TrainedNoise:
    remaining: Tensor  # (T,) fp32: the squared signal, alpha-bar
    prediction_type: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TrainedNoise:
        """config: scheduler_config.json. Raises UnsupportedModel."""
        prediction = config.get("prediction_type", EPSILON)
        if prediction not in PREDICTIONS:
            raise UnsupportedModel(f"prediction type {prediction!r} is not one of {PREDICTIONS}")
        betas = _betas(config)
        if config.get("rescale_betas_zero_snr"):
            betas = _ending_in_pure_noise(betas)
        return cls(torch.cumprod(1 - betas, dim=0), prediction)


def _betas(config: Mapping[str, Any]) -> Tensor:
    if (trained := config.get("trained_betas")) is not None:
        return torch.tensor(trained, dtype=torch.float32)
    count = config.get("num_train_timesteps", 1000)
    start, end = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
    schedule = config.get("beta_schedule", "linear")
    if schedule == "linear":
        return torch.linspace(start, end, count, dtype=torch.float32)
    if schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32).square()
    if schedule == "squaredcos_cap_v2":
        left = [math.cos((step / count + 0.008) / 1.008 * math.pi / 2) ** 2 for step in range(count + 1)]
        return torch.tensor([min(1 - left[step + 1] / left[step], MOST_BETA) for step in range(count)])
    raise UnsupportedModel(f"beta_schedule: {schedule!r} is not linear, scaled_linear or squaredcos_cap_v2")


def _ending_in_pure_noise(betas: Tensor) -> Tensor:
    """Lin et al. 2023, arXiv 2305.08891, algorithm 1."""
    signal = torch.cumprod(1 - betas, dim=0).sqrt()
    first, last = signal[0].clone(), signal[-1].clone()
    squared = ((signal - last) * (first / (first - last))).square()
    return 1 - torch.cat([squared[:1], squared[1:] / squared[:-1]])
