"""Attention of the UNet and the autoencoder, by torch's own kernel or by another one that is put in its place."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from diffusion.layers import Linear

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]  # query, key, value (B, heads, tokens, width of a head) -> the same


def scaled_dot_product(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """torch's kernels keep the scores in fp32 whatever the inputs are, which is what `upcast_attention` asks for."""
    return functional.scaled_dot_product_attention(query, key, value)


class Attention(nn.Module):
    kernel: Kernel = staticmethod(scaled_dot_product)

    def __init__(self, width: int, heads: int, context_width: int | None = None, *, bias: bool = False) -> None:
        """context_width: of what is attended to; None: the same as what attends."""
        super().__init__()
        self.heads = heads
        self.to_q = Linear(width, width, bias=bias)
        self.to_k = Linear(context_width or width, width, bias=bias)
        self.to_v = Linear(context_width or width, width, bias=bias)
        self.to_out = nn.ModuleList([Linear(width, width)])

    def forward(self, hidden: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, tokens, width). context: (B, other tokens, context width); None: attends to itself."""
        context = hidden if context is None else context
        query, key, value = self.to_q(hidden), self.to_k(context), self.to_v(context)
        attended = self.kernel(self._split(query), self._split(key), self._split(value))
        output: Tensor = self.to_out[0](attended.transpose(1, 2).flatten(2))
        return output

    def _split(self, hidden: Tensor) -> Tensor:
        return hidden.view(*hidden.shape[:2], self.heads, -1).transpose(1, 2)


class PictureAttention(Attention):
    """Every place of a feature map attends to every other one, as the autoencoder has it."""

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__(channels, heads=1, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, eps=eps)

    def forward(self, hidden: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, C, H, W)."""
        normed = self.group_norm(hidden.flatten(2)).transpose(1, 2)
        attended = super().forward(normed, context)
        return attended.transpose(1, 2).reshape(hidden.shape) + hidden


def use_kernel(network: nn.Module, kernel: Kernel) -> None:
    for module in network.modules():
        if isinstance(module, Attention):
            module.kernel = kernel
