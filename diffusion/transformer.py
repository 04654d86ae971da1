"""The transformer of a UNet's level: attention within the picture, then to the words of the prompt."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from diffusion.attention import Attention
from diffusion.layers import Conv2d, Linear

WIDENING = 4  # of the feed-forward layer
NORM_EPS = 1e-6


class GatedGelu(nn.Module):
    """Shazeer 2020, arXiv 2002.05202."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(width, 2 * inner)

    def forward(self, hidden: Tensor) -> Tensor:
        values, gate = self.proj(hidden).chunk(2, dim=-1)
        gated: Tensor = values * functional.gelu(gate)
        return gated


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        # The middle was dropout, which Stable Diffusion does not have; its place keeps the names of the files.
        self.net = nn.ModuleList([GatedGelu(width, WIDENING * width), nn.Identity(), Linear(WIDENING * width, width)])

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.net[2](self.net[0](hidden))
        return output


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, heads, context_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, hidden: Tensor, context: Tensor) -> Tensor:
        hidden = self.attn1(self.norm1(hidden)) + hidden
        hidden = self.attn2(self.norm2(hidden), context) + hidden
        output: Tensor = self.ff(self.norm3(hidden)) + hidden
        return output


class Transformer(nn.Module):
    def __init__(self, channels: int, heads: int, context_width: int, groups: int, *, linear_projection: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self._linear = linear_projection
        self.proj_in = Linear(channels, channels) if linear_projection else Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, heads, context_width)])
        self.proj_out = Linear(channels, channels) if linear_projection else Conv2d(channels, channels, 1)

    def forward(self, hidden: Tensor, context: Tensor) -> Tensor:
        """(B, C, H, W); context: (B, tokens, context width)."""
        residual = hidden
        hidden = self.norm(hidden)
        hidden = self.proj_in(_as_tokens(hidden)) if self._linear else _as_tokens(self.proj_in(hidden))
        hidden = self.transformer_blocks[0](hidden, context)
        if self._linear:
            return _as_picture(self.proj_out(hidden), residual) + residual
        output: Tensor = self.proj_out(_as_picture(hidden, residual)) + residual
        return output


def _as_tokens(picture: Tensor) -> Tensor:
    return picture.permute(0, 2, 3, 1).flatten(1, 2)


def _as_picture(tokens: Tensor, like: Tensor) -> Tensor:
    return tokens.view(len(tokens), *like.shape[-2:], -1).permute(0, 3, 1, 2).contiguous()
