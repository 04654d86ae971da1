"""The noise schedule, always in fp32, and the learning-rate schedule as a pure function of the step.

Rounding the schedule to half precision before 1 - a loses the noise of the first timesteps altogether in bf16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from diffusers.optimization import get_scheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from contracts.training import LrScheduler

SUPPORTED_PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class NoiseSchedule:
    """x_t = signal[t] x_0 + sigma[t] noise, with signal^2 + sigma^2 = 1."""

    signal: Tensor  # (T,) fp32
    sigma: Tensor  # (T,) fp32
    prediction_type: str

    @classmethod
    def from_scheduler_config(cls, config: Mapping[str, object]) -> NoiseSchedule:
        """Raises ValueError for a prediction type other than epsilon and v_prediction."""
        scheduler = DDPMScheduler.from_config(dict(config))
        prediction_type = str(scheduler.config.prediction_type)
        if prediction_type not in SUPPORTED_PREDICTIONS:
            raise ValueError(f"prediction type {prediction_type!r} is not one of {SUPPORTED_PREDICTIONS}")
        remaining = scheduler.alphas_cumprod.double()
        return cls(remaining.sqrt().float(), (1 - remaining).sqrt().float(), prediction_type)

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
        if self.prediction_type == "epsilon":
            return noise.float()
        return self._at(self.signal, timesteps) * noise.float() - self._at(self.sigma, timesteps) * latents.float()

    def min_snr_weights(self, timesteps: Tensor, gamma: float) -> Tensor:
        """(B,): what each squared error counts. Hang et al. 2023, arXiv 2303.09556, for either kind of prediction."""
        snr = (self.signal[timesteps] / self.sigma[timesteps]).square()
        if self.prediction_type == "epsilon":
            return (gamma / snr).clamp(max=1)
        return snr.clamp(max=gamma) / (snr + 1)

    @staticmethod
    def _at(values: Tensor, timesteps: Tensor) -> Tensor:
        return values[timesteps].view(-1, 1, 1, 1)


def learning_rate_at(name: LrScheduler, learning_rate: float, warmup: int, total: int) -> Callable[[int], float]:
    """step (from 0) -> learning rate. Without state, so there is nothing to save or to restore."""
    stand_in = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=learning_rate)
    scheduler = get_scheduler(name, stand_in, num_warmup_steps=warmup, num_training_steps=total)
    factor = scheduler.lr_lambdas[0]
    return lambda step: learning_rate * float(factor(step))
