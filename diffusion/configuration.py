"""config.json of each network: what Stable Diffusion 1.x and 2.x vary, and what they all have in common.

A setting that would make another network is refused; what diffusers itself ignores is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

Configuration = TypeVar("Configuration", bound="UNetConfig | AutoencoderConfig | TextEncoderConfig")


class UnsupportedModel(ValueError):
    """Weights or settings that are not those of a Stable Diffusion 1.x or 2.x."""


CROSS_ATTENTION_DOWN, PLAIN_DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_ATTENTION_UP, PLAIN_UP = "CrossAttnUpBlock2D", "UpBlock2D"

_OF_EVERY_UNET: dict[str, tuple[object, ...]] = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dropout": (0,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "transformer_layers_per_block": (1,),
}
_OF_EVERY_AUTOENCODER: dict[str, tuple[object, ...]] = {
    "act_fn": ("silu", "swish"),
    "latents_mean": (None,),
    "latents_std": (None,),
    "shift_factor": (None,),
}
_OF_EVERY_TEXT_ENCODER: dict[str, tuple[object, ...]] = {"attention_dropout": (0,), "dropout": (0,)}


@dataclass(frozen=True)
class UNetConfig:
    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = (*(CROSS_ATTENTION_DOWN,) * 3, PLAIN_DOWN)
    up_block_types: tuple[str, ...] = (PLAIN_UP, *(CROSS_ATTENTION_UP,) * 3)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int = 1280
    attention_head_dim: int | tuple[int, ...] = 8  # how many heads, in spite of its name
    use_linear_projection: bool = False
    sample_size: int | None = None

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> UNetConfig:
        """Raises UnsupportedModel."""
        found = _read(cls, config, _OF_EVERY_UNET)
        _require_blocks("down_block_types", found.down_block_types, (CROSS_ATTENTION_DOWN, PLAIN_DOWN), found)
        _require_blocks("up_block_types", found.up_block_types, (CROSS_ATTENTION_UP, PLAIN_UP), found)
        if len(found.heads) != len(found.block_out_channels):
            raise UnsupportedModel("attention_head_dim and block_out_channels are not of the same length")
        return found

    @property
    def heads(self) -> tuple[int, ...]:
        """Of each level."""
        if isinstance(self.attention_head_dim, int):
            return (self.attention_head_dim,) * len(self.block_out_channels)
        return self.attention_head_dim


@dataclass(frozen=True)
class AutoencoderConfig:
    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (64,)
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> AutoencoderConfig:
        """Raises UnsupportedModel."""
        found = _read(cls, config, _OF_EVERY_AUTOENCODER)
        _require_blocks("down_block_types", found.down_block_types, ("DownEncoderBlock2D",), found)
        _require_blocks("up_block_types", found.up_block_types, ("UpDecoderBlock2D",), found)
        return found


@dataclass(frozen=True)
class TextEncoderConfig:
    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> TextEncoderConfig:
        """Raises UnsupportedModel."""
        return _read(cls, config, _OF_EVERY_TEXT_ENCODER)


def _read(
    kind: type[Configuration], config: Mapping[str, Any], common: Mapping[str, tuple[object, ...]]
) -> Configuration:
    for name, allowed in common.items():
        if name in config and config[name] not in allowed:
            raise UnsupportedModel(f"{name}: {config[name]!r} is not what Stable Diffusion has ({allowed[0]!r})")
    known = [field.name for field in fields(kind)]
    return kind(**{name: _frozen(config[name]) for name in known if name in config})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _require_blocks(
    name: str, blocks: tuple[str, ...], known: tuple[str, ...], config: UNetConfig | AutoencoderConfig
) -> None:
    for block in blocks:
        if block not in known:
            raise UnsupportedModel(f"{name}: {block!r} is not one of {', '.join(known)}")
    if len(blocks) != len(config.block_out_channels):
        raise UnsupportedModel(f"{name} and block_out_channels are not of the same length")
