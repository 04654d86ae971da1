"""The noise schedule of the training, and the learning-rate schedule as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from contracts.training import LrScheduler
from diffusion.noise import EPSILON, TrainedNoise

POLYNOMIAL_END = 1e-7


@dataclass(frozen=True)
class NoiseSchedule:
    """x_t = signal[t] x_0 + sigma[t] noise, with signal^2 + sigma^2 = 1."""

    signal: Tensor  # (T,) fp32
    sigma: Tensor  # (T,) fp32
    prediction_type: str

    @classmethod
    def from_scheduler_config(cls, config: Mapping[str, object]) -> NoiseSchedule:
        """Raises UnsupportedModel."""
        trained = TrainedNoise.from_config(config)
        remaining = trained.remaining.double()
        return cls(remaining.sqrt().float(), (1 - remaining).sqrt().float(), trained.prediction_type)

    @property
    def num_timesteps(self) -> int:
        return len(self.signal)

    def to(self, device: torch.device) -> NoiseSchedule:
        return NoiseSchedule(self.signal.to(device), self.sigma.to(device), self.prediction_type)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """(B, C, H, W) in fp32."""
        return self._at(self.signal, timesteps) * latents.float() + self._at(self.sigma, timesteps) * noise.float()

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the UNet should predict, (B, C, H, W) in fp32: the noise, or the velocity signal noise - sigma x_0."""
        if self.prediction_type == EPSILON:
            return noise.float()
        return self._at(self.signal, timesteps) * noise.float() - self._at(self.sigma, timesteps) * latents.float()

    def min_snr_weights(self, timesteps: Tensor, gamma: float) -> Tensor:
        """(B,): what each squared error counts. Hang et al. 2023, arXiv 2303.09556, for either kind of prediction."""
        snr = (self.signal[timesteps] / self.sigma[timesteps]).square()
        if self.prediction_type == EPSILON:
            return (gamma / snr).clamp(max=1)
        return snr.clamp(max=gamma) / (snr + 1)

    @staticmethod
    def _at(values: Tensor, timesteps: Tensor) -> Tensor:
        return values[timesteps].view(-1, 1, 1, 1)


def learning_rate_at(name: LrScheduler, learning_rate: float, warmup: int, total: int) -> Callable[[int], float]:
    """step (from 0) -> learning rate. Without state, so there is nothing to save or to restore."""
    falls = _FALLING[name]

    def rate(step: int) -> float:
        if name != "constant" and step < warmup:
            return learning_rate * step / warmup
        return falls(learning_rate, min(1.0, (step - warmup) / max(1, total - warmup)))

    return rate


# The rate after the warm-up; progress goes from 0 to 1.
_FALLING: dict[LrScheduler, Callable[[float, float], float]] = {
    "constant": lambda rate, progress: rate,
    "constant_with_warmup": lambda rate, progress: rate,
    "linear": lambda rate, progress: rate * (1 - progress),
    "cosine": lambda rate, progress: rate * (1 + math.cos(math.pi * progress)) / 2,
    "cosine_with_restarts": lambda rate, progress: rate * (1 + math.cos(math.pi * progress)) / 2,  # one cycle of them
    "polynomial": lambda rate, progress: POLYNOMIAL_END + (rate - POLYNOMIAL_END) * (1 - progress),
}
