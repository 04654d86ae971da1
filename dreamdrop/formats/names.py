"""What a weight is called in a diffusers directory, and what in the one file that Stable Diffusion was published as.

The original UNet numbers its blocks through: three to a level on the way down (two layers and the downsampler), three
layers to a level on the way up. Its decoder numbers the levels from the picture, diffusers from the latents. The text
encoder is CLIP's in versions 1.x; in 2.x it is OpenCLIP's, where queries, keys and values are one weight.

Read from the released checkpoints' layout; tests hold it against diffusers' own reader of such files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from contracts.errors import InvalidBaseModel

_LEVELS = 4
_SLOT = {"resnets": 0, "attentions": 1}

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_BLOCK = re.compile(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)")
_UNET_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)")
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}

_VAE_BLOCK = re.compile(r"(encoder\.down|decoder\.up)_blocks\.(\d)\.(resnets|downsamplers|upsamplers)\.(\d)\.(.+)")
_VAE_MIDDLE = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d)\.(.+)")
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}

_OPENCLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPENCLIP_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_OPENCLIP_INSIDE = {
    "layer_norm1": "ln_1.",
    "layer_norm2": "ln_2.",
    "self_attn.q_proj": "attn.in_proj_",
    "self_attn.k_proj": "attn.in_proj_",
    "self_attn.v_proj": "attn.in_proj_",
    "self_attn.out_proj": "attn.out_proj.",
    "mlp.fc1": "mlp.c_fc.",
    "mlp.fc2": "mlp.c_proj.",
}
_FUSED = ("q_proj", "k_proj", "v_proj")  # in this order, one below the other


@dataclass(frozen=True)
class Part:
    """One of the networks: its folder in a diffusers directory, its prefix in the file, and its names."""

    folder: str
    prefix: str
    rename: Callable[[str], str]

    def original(self, name: str) -> str:
        """The name in the file. Raises InvalidBaseModel for a weight that the original networks do not have."""
        try:
            return self.prefix + self.rename(name)
        except KeyError as error:
            raise InvalidBaseModel(
                f"The {self.folder} has a weight {name}, which Stable Diffusion 1.x and 2.x have not."
            ) from error

    def by_original(self, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Name in the file -> the diffusers names that it holds: one, or three for a fused projection."""
        grouped: dict[str, list[str]] = {}
        for name in names:
            grouped.setdefault(self.original(name), []).append(name)
        return {original: tuple(sorted(held, key=_fused_place)) for original, held in grouped.items()}


def _fused_place(name: str) -> int:
    return next((place for place, part in enumerate(_FUSED) if part in name), 0)


def _unet(name: str) -> str:
    if block := _UNET_BLOCK.fullmatch(name):
        return _unet_block(block[1], int(block[2]), block[3], int(block[4]), block[5])
    if middle := _UNET_MIDDLE.fullmatch(name):
        number = 2 * int(middle[2]) if middle[1] == "resnets" else 1
        return f"middle_block.{number}.{_inside(middle[1], middle[3])}"
    module, _, kind = name.rpartition(".")
    return f"{_UNET_ENDS[module]}.{kind}"


def _unet_block(way: str, level: int, layers: str, layer: int, rest: str) -> str:
    if layers == "downsamplers":
        return f"input_blocks.{3 * level + 3}.0.op.{rest.removeprefix('conv.')}"
    if layers == "upsamplers":  # comes last in its block, after the attention if there is one
        return f"output_blocks.{3 * level + 2}.{1 if level == 0 else 2}.{rest}"
    block = f"input_blocks.{3 * level + layer + 1}" if way == "down" else f"output_blocks.{3 * level + layer}"
    return f"{block}.{_SLOT[layers]}.{_inside(layers, rest)}"


def _inside(layers: str, rest: str) -> str:
    if layers == "attentions":
        return rest
    module, _, kind = rest.rpartition(".")
    return f"{_RESNET[module]}.{kind}"


def _vae(name: str) -> str:
    if block := _VAE_BLOCK.fullmatch(name):
        way, rest = block[1], block[5]
        level = int(block[2]) if way == "encoder.down" else _LEVELS - 1 - int(block[2])
        if block[3] == "resnets":
            return f"{way}.{level}.block.{block[4]}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
        return f"{way}.{level}.{block[3].removesuffix('rs')}.{rest}"
    if middle := _VAE_MIDDLE.fullmatch(name):
        side, layers, number, rest = middle.groups()
        if layers == "resnets":
            return f"{side}.mid.block_{int(number) + 1}.{rest}"
        module, _, kind = rest.rpartition(".")
        return f"{side}.mid.attn_1.{_VAE_ATTENTION[module]}.{kind}"
    if not name.startswith(("encoder.conv_", "decoder.conv_", "quant_conv.", "post_quant_conv.")):
        raise KeyError(name)
    return name.replace("conv_norm_out", "norm_out")


def _clip(name: str) -> str:
    return f"text_model.{name.removeprefix('text_model.')}"


def _openclip(name: str) -> str:
    bare = name.removeprefix("text_model.")
    layer = _OPENCLIP_LAYER.fullmatch(bare)
    if layer is None:
        return _OPENCLIP_ENDS[bare]
    return f"transformer.resblocks.{layer[1]}.{_OPENCLIP_INSIDE[layer[2]]}{layer[3]}"


UNET = Part("unet", "model.diffusion_model.", _unet)
VAE = Part("vae", "first_stage_model.", _vae)
CLIP = Part("text_encoder", "cond_stage_model.transformer.", _clip)
OPENCLIP = Part("text_encoder", "cond_stage_model.model.", _openclip)
