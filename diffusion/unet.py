"""The UNet of Stable Diffusion 1.x and 2.x. Rombach et al. 2022, arXiv 2112.10752."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion.configuration import CROSS_ATTENTION_DOWN, CROSS_ATTENTION_UP, UNetConfig
from diffusion.layers import Conv2d, Downsample, Level, Linear, ResnetBlock, Upsample
from diffusion.transformer import Transformer

TIME_WIDENING = 4
LONGEST_PERIOD = 10000


class UNet(nn.Module):
    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.block_out_channels
        levels = range(len(channels))
        self.conv_in = Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(channels[0], TIME_WIDENING * channels[0])
        self.down_blocks = nn.ModuleList(DownLevel(config, level) for level in levels)
        self.up_blocks = nn.ModuleList(UpLevel(config, place) for place in levels)
        self.mid_block = MiddleLevel(config)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, channels[0], eps=config.norm_eps)
        self.conv_out = Conv2d(channels[0], config.out_channels, 3, padding=1)

    def forward(self, noisy: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape. timesteps: () or (B,); context: the prompts, (B, tokens, width)."""
        time = functional.silu(self.time_embedding(timesteps.expand(len(noisy)), noisy.dtype))
        hidden = self.conv_in(noisy)
        kept = [hidden]
        for block in self.down_blocks:
            hidden = block(hidden, time, context, kept)
        hidden = self.mid_block(hidden, time, context)
        for block in self.up_blocks:
            hidden = block(hidden, time, context, kept)
        predicted: Tensor = self.conv_out(functional.silu(self.conv_norm_out(hidden)))
        return predicted


class TimeEmbedding(nn.Module):
    """Cosines and sines of the timestep (Vaswani et al. 2017, arXiv 1706.03762), then two layers."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self._width = width
        self.linear_1 = Linear(width, out_width)
        self.linear_2 = Linear(out_width, out_width)

    def forward(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        half = self._width // 2
        places = torch.arange(half, dtype=torch.float32, device=timesteps.device)
        angles = timesteps[:, None].float() * torch.exp(-math.log(LONGEST_PERIOD) * places / half)[None, :]
        waves = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
        embedded: Tensor = self.linear_2(functional.silu(self.linear_1(waves.to(dtype))))
        return embedded


class DownLevel(Level):
    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        channels = config.block_out_channels
        before, own = channels[max(level - 1, 0)], channels[level]
        widths = (before, *(own,) * config.layers_per_block)
        self.attentions = nn.ModuleList()  # before the resnets: LoRA weights are drawn in the order of the modules
        if config.down_block_types[level] == CROSS_ATTENTION_DOWN:
            self.attentions.extend(_transformer(config, level) for _ in range(config.layers_per_block))
        self.resnets = nn.ModuleList(_resnet(config, width, out) for width, out in pairwise(widths))
        self.downsamplers = nn.ModuleList()
        if level < len(channels) - 1:
            self.downsamplers.append(Downsample(own, padding=1))

    def forward(self, hidden: Tensor, time: Tensor, context: Tensor, kept: list[Tensor]) -> Tensor:
        """What the way up will need is put on top of `kept`."""
        for place, resnet in enumerate(self.resnets):
            hidden = self.run(resnet, hidden, time)
            if self.attentions:
                hidden = self.run(self.attentions[place], hidden, context)
            kept.append(hidden)
        for downsampler in self.downsamplers:
            hidden = downsampler(hidden)
            kept.append(hidden)
        return hidden


class MiddleLevel(Level):
    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        lowest = len(config.block_out_channels) - 1
        width = config.block_out_channels[lowest]
        self.attentions = nn.ModuleList([_transformer(config, lowest)])
        self.resnets = nn.ModuleList([_resnet(config, width, width) for _ in range(2)])

    def forward(self, hidden: Tensor, time: Tensor, context: Tensor) -> Tensor:
        hidden = self.run(self.resnets[0], hidden, time)
        hidden = self.run(self.attentions[0], hidden, context)
        return self.run(self.resnets[1], hidden, time)


class UpLevel(Level):
    def __init__(self, config: UNetConfig, place: int) -> None:
        """place: from the lowest level up."""
        super().__init__()
        channels = config.block_out_channels
        level = len(channels) - 1 - place
        own, below, above = channels[level], channels[min(level + 1, len(channels) - 1)], channels[max(level - 1, 0)]
        layers = config.layers_per_block + 1
        came = (below, *(own,) * (layers - 1))
        kept = (*(own,) * (layers - 1), above)
        self.attentions = nn.ModuleList()
        if config.up_block_types[place] == CROSS_ATTENTION_UP:
            self.attentions.extend(_transformer(config, level) for _ in range(layers))
        self.resnets = nn.ModuleList(_resnet(config, a + b, own) for a, b in zip(came, kept, strict=True))
        self.upsamplers = nn.ModuleList()
        if level > 0:
            self.upsamplers.append(Upsample(own))

    def forward(self, hidden: Tensor, time: Tensor, context: Tensor, kept: list[Tensor]) -> Tensor:
        """Takes what it needs off the top of `kept`."""
        for place, resnet in enumerate(self.resnets):
            hidden = self.run(resnet, torch.cat([hidden, kept.pop()], dim=1), time)
            if self.attentions:
                hidden = self.run(self.attentions[place], hidden, context)
        for upsampler in self.upsamplers:
            hidden = upsampler(hidden, kept[-1].shape[-2:])
        return hidden


def _resnet(config: UNetConfig, channels: int, out_channels: int) -> ResnetBlock:
    time_channels = TIME_WIDENING * config.block_out_channels[0]
    return ResnetBlock(channels, out_channels, config.norm_num_groups, config.norm_eps, time_channels)


def _transformer(config: UNetConfig, level: int) -> Transformer:
    return Transformer(
        config.block_out_channels[level],
        config.heads[level],
        config.cross_attention_dim,
        config.norm_num_groups,
        linear_projection=config.use_linear_projection,
    )
