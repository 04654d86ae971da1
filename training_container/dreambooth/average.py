"""A moving average of the trained weights (Polyak and Juditsky 1992): steadier than the weights of any one step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class WeightAverage:
    """In fp32 on the weights' device, by the same names."""

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], decay: float) -> None:
        self._parameters = parameters
        self._decay = decay
        self.tensors: dict[str, Tensor] = {name: weight.detach().clone() for name, weight in parameters.items()}

    @torch.no_grad()
    def restart(self) -> None:
        """From the weights as they are."""
        self.restore(self._parameters)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """step: from 0. As diffusers' EMAModel: the weights at first, then min(decay, (1 + n) / (10 + n))."""
        decay = min(self._decay, (1 + step) / (10 + step)) if step else 0.0
        weights: list[Tensor] = [weight.detach() for weight in self._parameters.values()]
        torch._foreach_lerp_(list(self.tensors.values()), weights, 1 - decay)

    @torch.no_grad()
    def restore(self, saved: Mapping[str, Tensor]) -> None:
        for name, tensor in self.tensors.items():
            tensor.copy_(saved[name])

    @torch.no_grad()
    def take_over(self) -> None:
        """The weights become their average: the end of a training."""
        for name, weight in self._parameters.items():
            weight.copy_(self.tensors[name])
