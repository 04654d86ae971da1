"""The variational autoencoder between pictures and latents. Kingma and Welling 2013, arXiv 1312.6114."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion.attention import PictureAttention
from diffusion.configuration import AutoencoderConfig
from diffusion.layers import Conv2d, Downsample, ResnetBlock, Upsample

NORM_EPS = 1e-6
LOG_VARIANCE_RANGE = (-30.0, 20.0)


class Autoencoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        latents = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = Conv2d(2 * latents, 2 * latents, 1) if config.use_quant_conv else None
        self.post_quant_conv = Conv2d(latents, latents, 1) if config.use_post_quant_conv else None

    @property
    def downscale(self) -> int:
        """Pixels of a picture's side for one latent."""
        return int(2 ** (len(self.config.block_out_channels) - 1))

    def encode(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> moments of the posterior: mean and log variance, (B, 2C, h, w)."""
        moments: Tensor = self.encoder(pictures)
        return moments if self.quant_conv is None else self.quant_conv(moments)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W)."""
        decoded: Tensor = self.decoder(latents if self.post_quant_conv is None else self.post_quant_conv(latents))
        return decoded


class Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels = config.block_out_channels
        self.conv_in = Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            EncoderLevel(config, before, own, halves=level < len(channels) - 1)
            for level, (before, own) in enumerate(pairwise((channels[0], *channels)))
        )
        self.mid_block = MiddleLevel(config)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, channels[-1], eps=NORM_EPS)
        self.conv_out = Conv2d(channels[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.conv_in(hidden)
        for block in self.down_blocks:
            hidden = block(hidden)
        moments: Tensor = self.conv_out(functional.silu(self.conv_norm_out(self.mid_block(hidden))))
        return moments


class Decoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels = config.block_out_channels[::-1]
        self.conv_in = Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.up_blocks = nn.ModuleList(
            DecoderLevel(config, before, own, doubles=place < len(channels) - 1)
            for place, (before, own) in enumerate(pairwise((channels[0], *channels)))
        )
        self.mid_block = MiddleLevel(config)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, channels[-1], eps=NORM_EPS)
        self.conv_out = Conv2d(channels[-1], config.out_channels, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.mid_block(self.conv_in(hidden))
        for block in self.up_blocks:
            hidden = block(hidden)
        decoded: Tensor = self.conv_out(functional.silu(self.conv_norm_out(hidden)))
        return decoded


class EncoderLevel(nn.Module):
    def __init__(self, config: AutoencoderConfig, before: int, own: int, *, halves: bool) -> None:
        super().__init__()
        self.resnets = _resnets(config, before, own, config.layers_per_block)
        self.downsamplers = nn.ModuleList([Downsample(own, padding=0)] if halves else [])

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.downsamplers):
            hidden = layer(hidden)
        return hidden


class DecoderLevel(nn.Module):
    def __init__(self, config: AutoencoderConfig, before: int, own: int, *, doubles: bool) -> None:
        super().__init__()
        self.resnets = _resnets(config, before, own, config.layers_per_block + 1)
        self.upsamplers = nn.ModuleList([Upsample(own)] if doubles else [])

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in (*self.resnets, *self.upsamplers):
            hidden = layer(hidden)
        return hidden


class MiddleLevel(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        width = config.block_out_channels[-1]
        attends = config.mid_block_add_attention
        self.attentions = nn.ModuleList([PictureAttention(width, config.norm_num_groups, NORM_EPS)] if attends else [])
        self.resnets = _resnets(config, width, width, 2)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.resnets[0](hidden)
        for attention in self.attentions:
            hidden = attention(hidden)
        output: Tensor = self.resnets[1](hidden)
        return output


def sample_posterior(moments: Tensor, draw: Tensor) -> Tensor:
    """mean + std x draw, (B, C, h, w) in fp32. moments: (B, 2C, h, w)."""
    mean, log_variance = moments.float().chunk(2, dim=1)
    return mean + torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE)) * draw


def _resnets(config: AutoencoderConfig, before: int, own: int, count: int) -> nn.ModuleList:
    widths = (before, *(own,) * count)
    return nn.ModuleList(
        ResnetBlock(width, out, config.norm_num_groups, NORM_EPS, time_channels=None) for width, out in pairwise(widths)
    )
