"""Low-rank adapters for training: y = W x + alpha / rank B A x. Hu et al. 2021, arXiv 2106.09685.

B starts at zero, so an untrained adapter changes nothing. Tensors are named as peft names them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion.layers import Conv2d, Linear

DOWN, UP = "lora_A", "lora_B"
DOWN_SUFFIX, UP_SUFFIX = f".{DOWN}.weight", f".{UP}.weight"
METADATA = "lora_adapter_metadata"  # the entry of a file's header where diffusers looks for rank and alpha


class LoraLinear(Linear):
    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        """In the place of `base`, whose weights it takes over."""
        super().__init__(base.in_features, base.out_features, bias=False, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.lora_A = nn.Linear(base.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False)
        self.scale = alpha / rank
        _begin(self.lora_A, self.lora_B, rank)

    def forward(self, hidden: Tensor) -> Tensor:
        change = functional.linear(functional.linear(hidden, self.lora_A.weight), self.lora_B.weight)
        return torch.add(super().forward(hidden), change, alpha=self.scale)


class LoraConv2d(Conv2d):
    def __init__(self, base: nn.Conv2d, rank: int, alpha: float) -> None:
        """In the place of `base`, whose weights it takes over."""
        kernel, stride, padding = base.kernel_size, base.stride, base.padding
        shape = {"kernel_size": kernel, "stride": stride, "padding": padding, "bias": False}
        super().__init__(base.in_channels, base.out_channels, **shape, device="meta")  # type: ignore[arg-type]
        self.weight, self.bias = base.weight, base.bias
        self.lora_A = nn.Conv2d(base.in_channels, rank, **shape)  # type: ignore[arg-type]
        self.lora_B = nn.Conv2d(rank, base.out_channels, 1, bias=False)
        self.scale = alpha / rank
        _begin(self.lora_A, self.lora_B, rank)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.add(super().forward(hidden), self.lora_B(self.lora_A(hidden)), alpha=self.scale)


def add_adapters(network: nn.Module, targets: Iterable[str], *, rank: int, alpha: float) -> None:
    """To every layer whose path ends in one of the targets; nothing else is trainable afterwards.

    The adapters' weights come from torch's random state, in the layers' order.
    """
    network.requires_grad_(False)
    endings = tuple(f".{target}" for target in targets)
    for path in [path for path, _ in network.named_modules() if f".{path}".endswith(endings)]:
        layer = network.get_submodule(path)
        adapted: nn.Module
        if isinstance(layer, nn.Linear):
            adapted = LoraLinear(layer, rank, alpha)
        elif isinstance(layer, nn.Conv2d):
            adapted = LoraConv2d(layer, rank, alpha)
        else:
            raise TypeError(f"{path} is neither a linear layer nor a convolution")
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, adapted)


def adapter_weights(network: nn.Module) -> dict[str, Tensor]:
    """By the names that they have in files."""
    return {name: weight for name, weight in network.named_parameters() if name.endswith((DOWN_SUFFIX, UP_SUFFIX))}


def _begin(down: nn.Linear | nn.Conv2d, up: nn.Linear | nn.Conv2d, rank: int) -> None:
    nn.init.normal_(down.weight, std=1 / rank)
    nn.init.zeros_(up.weight)
