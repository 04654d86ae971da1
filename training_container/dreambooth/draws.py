"""Every random number of a run is a function of (seed, purpose, place): nothing depends on what was drawn before.

So a resumed run draws what the uninterrupted one would have drawn, and the CPU draws for every device.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from training_container.dreambooth.precision import send


def generator_for(seed: int, purpose: str, *place: int) -> torch.Generator:
    """A CPU generator of its own for one place of the run, e.g. ("noise", step, micro_batch)."""
    digest = hashlib.blake2b(repr((seed, purpose, place)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


@dataclass(frozen=True)
class StepDraws:
    """Randomness of one forward pass of B latents of shape (C, H, W)."""

    posterior: Tensor  # (B, C, H, W) standard normal
    noise: Tensor  # (B, C, H, W) standard normal
    timesteps: Tensor  # (B,) int64, uniform in [0, timesteps of the schedule)
    offset: Tensor  # (B, C, 1, 1) standard normal: the noise that a whole channel shares

    @classmethod
    def of(cls, generator: torch.Generator, shape: tuple[int, ...], num_timesteps: int) -> StepDraws:
        return cls(
            posterior=torch.randn(shape, generator=generator),
            noise=torch.randn(shape, generator=generator),
            timesteps=torch.randint(0, num_timesteps, (shape[0],), generator=generator),
            offset=torch.randn((*shape[:2], 1, 1), generator=generator),
        )

    def at(self, places: list[int]) -> StepDraws:
        return StepDraws(self.posterior[places], self.noise[places], self.timesteps[places], self.offset[places])

    def to(self, device: torch.device) -> StepDraws:
        return StepDraws(*(send(drawn, device) for drawn in (self.posterior, self.noise, self.timesteps, self.offset)))


def sample_indices(seed: int, purpose: str, first: int, count: int, population: int) -> list[int]:
    """Members `first` .. `first + count - 1` of an endless sequence of seeded permutations of range(population)."""
    chosen: list[int] = []
    for position in range(first, first + count):
        epoch, offset = divmod(position, population)
        order = torch.randperm(population, generator=generator_for(seed, purpose, epoch))
        chosen.append(int(order[offset]))
    return chosen
