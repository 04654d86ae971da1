"""Building blocks of the UNet and the autoencoder.

Weights are not initialised here: networks are always filled from files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Nothing: a file's weights take their place, and drawing random ones takes longer than reading those."""


class Conv2d(nn.Conv2d):
    def reset_parameters(self) -> None:
        """Nothing, as above."""


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Nothing, as above."""


class Level(nn.Module):
    """Layers that a backward pass can compute anew instead of keeping what they computed: less memory, more time."""

    recomputes = False

    def run(self, layer: nn.Module, *inputs: Tensor) -> Tensor:
        if not (self.recomputes and torch.is_grad_enabled()):
            output: Tensor = layer(*inputs)
            return output
        from torch.utils.checkpoint import checkpoint  # brings torch._dynamo: a second that few need

        again: Tensor = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
        return again


def recompute_activations(network: nn.Module) -> None:
    """Gradient checkpointing: from now on, where gradients are wanted."""
    for module in network.modules():
        if isinstance(module, Level):
            module.recomputes = True


class ResnetBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int, groups: int, eps: float, time_channels: int | None) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps=eps)
        self.conv1 = Conv2d(channels, out_channels, 3, padding=1)
        self.time_emb_proj = Linear(time_channels, out_channels) if time_channels else None
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = Conv2d(channels, out_channels, 1) if channels != out_channels else None

    def forward(self, hidden: Tensor, time: Tensor | None = None) -> Tensor:
        """time: the time embedding after its activation, which all blocks share."""
        residual = hidden
        hidden = self.conv1(functional.silu(self.norm1(hidden)))
        if self.time_emb_proj is not None and time is not None:
            hidden = hidden + self.time_emb_proj(time)[:, :, None, None]
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        return (residual if self.conv_shortcut is None else self.conv_shortcut(residual)) + hidden


class Downsample(nn.Module):
    def __init__(self, channels: int, padding: int) -> None:
        """padding: 1 on every side in the UNet; 0 in the autoencoder, which pads right and below instead."""
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=padding)
        self._pads_right_and_below = padding == 0

    def forward(self, hidden: Tensor) -> Tensor:
        if self._pads_right_and_below:
            hidden = functional.pad(hidden, (0, 1, 0, 1))
        down: Tensor = self.conv(hidden)
        return down


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """To twice the size, or to the given one, which is a pixel less where the way down had an odd side."""
        size = size or (2 * hidden.shape[-2], 2 * hidden.shape[-1])
        up: Tensor = self.conv(functional.interpolate(hidden, size=size, mode="nearest"))
        return up
