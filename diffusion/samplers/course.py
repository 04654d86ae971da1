"""What the samplers share: the settings of scheduler_config.json, the timesteps of a course, and its noise levels.

The arithmetic of levels is numpy's in double precision and done before the first step; latents are stepped in fp32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffusion.configuration import UnsupportedModel
from diffusion.noise import VELOCITY, TrainedNoise

Numbers = npt.NDArray[np.float64]
Spacing = Literal["linspace", "leading", "trailing"]
DrawNoise = Callable[[], Tensor]  # of the latents' shape

ALMOST_NO_SIGNAL = 2.0**-24  # instead of none at all, which would make the first level infinite
KARRAS_RHO = 7.0  # Karras et al. 2022, arXiv 2206.00364, equation 5
_SPACINGS = ("linspace", "leading", "trailing")
_LEFT_ALONE: dict[str, tuple[object, ...]] = {
    "interpolation_type": ("linear",),
    "lambda_min_clipped": (-float("inf"), None),
    "predict_x0": (True,),
    "thresholding": (False,),
    "timestep_type": ("discrete",),
    "use_beta_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_flow_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
}


@dataclass(frozen=True)
class SamplerSettings:
    """Named as in the file, where each kind of scheduler has written those that concern it."""

    noise: TrainedNoise
    timestep_spacing: Spacing | None = None  # None: the sampler's own
    steps_offset: int = 0
    set_alpha_to_one: bool | None = None
    skip_prk_steps: bool = False
    clip_sample: bool | None = None
    clip_sample_range: float = 1.0
    rescale_betas_zero_snr: bool = False
    use_karras_sigmas: bool = False
    final_sigmas_type: str = "zero"
    solver_order: int = 2
    solver_type: str | None = None
    lower_order_final: bool = True
    euler_at_final: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> SamplerSettings:
        """Raises UnsupportedModel."""
        for name, allowed in _LEFT_ALONE.items():
            if name in config and config[name] not in allowed:
                raise UnsupportedModel(f"{name}: {config[name]!r} in scheduler_config.json is not supported")
        if config.get("timestep_spacing", "leading") not in _SPACINGS:
            raise UnsupportedModel(f"timestep_spacing is not one of {', '.join(_SPACINGS)}")
        known = [field.name for field in fields(cls) if field.name in config and config[field.name] is not None]
        return cls(TrainedNoise.from_config(config), **{name: config[name] for name in known})

    @property
    def predicts_velocity(self) -> bool:
        return self.noise.prediction_type == VELOCITY

    @property
    def trained_steps(self) -> int:
        return len(self.noise.remaining)

    def remaining(self) -> Numbers:
        """(T,): the squared signal."""
        return self.noise.remaining.numpy().astype(np.float64)

    def levels(self) -> Numbers:
        """(T,): noise for a signal of 1."""
        remaining = self.remaining()
        if self.rescale_betas_zero_snr:
            remaining[-1] = ALMOST_NO_SIGNAL
        return np.sqrt((1 - remaining) / remaining)


class Sampler(ABC):
    """Takes the noise out of latents, step by step. Places count the steps from 0."""

    ignores: tuple[str, ...] = ()  # settings that diffusers' scheduler of the same name does not know
    start_scale = 1.0  # of noise that a whole course begins with
    timesteps: Tensor

    @abstractmethod
    def __init__(self, settings: SamplerSettings, steps: int, device: torch.device) -> None: ...

    def seen(self, latents: Tensor, place: int) -> Tensor:
        """As the UNet expects them."""
        return latents

    @abstractmethod
    def noised(self, latents: Tensor, noise: Tensor, place: int) -> Tensor:
        """With as much noise as at the beginning of that step."""

    def step(self, predicted: Tensor, latents: Tensor, place: int, draw_noise: DrawNoise) -> Tensor:
        """The latents after the step. predicted: what the UNet said of them."""
        return self._next(predicted.float(), latents.float(), place, draw_noise).to(predicted.dtype)

    @abstractmethod
    def _next(self, predicted: Tensor, latents: Tensor, place: int, draw_noise: DrawNoise) -> Tensor: ...


def spaced(
    settings: SamplerSettings, steps: int, spacing: Spacing, *, left_out: int = 0, whole: bool = True
) -> Numbers:
    """From much noise to little. left_out: that many more are spaced, and the last of them not taken."""
    total, count = settings.trained_steps, steps + left_out
    spacing = settings.timestep_spacing or spacing
    if spacing == "trailing":
        return np.arange(total, 0, -total / steps).round() - 1
    if spacing == "leading":
        return (np.arange(count, dtype=np.float64) * (total // count))[::-1][:steps] + settings.steps_offset
    even = np.linspace(0, total - 1, count)[::-1][:steps]
    return even.round() if whole else even.astype(np.float32).astype(np.float64)


def karras(highest: float, lowest: float, steps: int) -> Numbers:
    ramp = np.linspace(0, 1, steps)
    root = highest ** (1 / KARRAS_RHO) + ramp * (lowest ** (1 / KARRAS_RHO) - highest ** (1 / KARRAS_RHO))
    levels: Numbers = root**KARRAS_RHO
    return levels


def timesteps_at(levels: Numbers, trained: Numbers) -> Numbers:
    """Where the schedule of the training has these levels."""
    return np.interp(np.log(levels), np.log(trained), np.arange(len(trained), dtype=np.float64))


def on_device(timesteps: Numbers, device: torch.device) -> Tensor:
    return torch.from_numpy(timesteps.astype(np.float32)).to(device)
