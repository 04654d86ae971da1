"""Low-rank adapters, on the attention layers or on nearly all, through peft; saved in the format that diffusers loads.

Hu et al. 2021, arXiv 2106.09685. B starts at zero, so an untrained adapter changes nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPTextModel

from contracts.artifact import LORA_WEIGHTS
from contracts.training import LoraTargets
from training_container.dreambooth.draws import generator_for

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out")
AROUND_ATTENTION = ("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "time_emb_proj")
UNET_TARGETS: dict[LoraTargets, tuple[str, ...]] = {
    "attention": ATTENTION,
    "all": (*ATTENTION, *AROUND_ATTENTION, *CONVOLUTIONS),
}
TEXT_ENCODER_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


def _config(rank: int, alpha: float, targets: tuple[str, ...]) -> LoraConfig:
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # any number will do
        init_lora_weights="gaussian",
        target_modules=list(targets),
    )


def add_adapters(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel | None,
    *,
    rank: int,
    alpha: float,
    targets: LoraTargets,
    seed: int,
) -> None:
    """Adds trainable adapters to the UNet, and to the text encoder if one is given. The same seed, the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(seed, "lora").initial_seed())
        add_unet_adapters(unet, rank=rank, alpha=alpha, targets=targets)
        if text_encoder is not None:
            add_text_encoder_adapters(text_encoder, rank=rank, alpha=alpha)


def add_unet_adapters(unet: UNet2DConditionModel, *, rank: int, alpha: float, targets: LoraTargets) -> None:
    unet.add_adapter(_config(rank, alpha, UNET_TARGETS[targets]))


def add_text_encoder_adapters(text_encoder: CLIPTextModel, *, rank: int, alpha: float) -> None:
    text_encoder.add_adapter(_config(rank, alpha, TEXT_ENCODER_TARGETS))


def save_adapters(directory: Path, unet: UNet2DConditionModel, text_encoder: CLIPTextModel | None) -> None:
    """Writes pytorch_lora_weights.safetensors for `pipeline.load_lora_weights`; rank and alpha go into its header.

    The same weights give the same bytes: the header has one entry, since safetensors writes several in any order.
    """
    layers: dict[str, Tensor] = {}
    header: dict[str, object] = {}
    for prefix, module in (("unet", unet), ("text_encoder", text_encoder)):
        if module is not None:
            layers |= {f"{prefix}.{name}": tensor for name, tensor in _layers(module).items()}
            header |= {f"{prefix}.{name}": value for name, value in _settings(module).items()}
    metadata = {LORA_ADAPTER_METADATA_KEY: json.dumps(header, sort_keys=True)}
    save_file(layers, directory / LORA_WEIGHTS, metadata)


@torch.no_grad()
def load_adapters(directory: Path, unet: UNet2DConditionModel, text_encoder: CLIPTextModel | None) -> None:
    """Into adapters that were added before. Raises ValueError if they are of other layers, or OSError."""
    saved = load_file(directory / LORA_WEIGHTS)
    for prefix, module in (("unet.", unet), ("text_encoder.", text_encoder)):
        if module is None:
            continue
        own = {name.removeprefix(prefix): tensor for name, tensor in saved.items() if name.startswith(prefix)}
        layers = _layers_in_place(module)
        if own.keys() != layers.keys():
            raise ValueError(f"{LORA_WEIGHTS} has adapters of other layers")
        for name, layer in layers.items():
            layer.copy_(own[name])


def _layers_in_place(module: torch.nn.Module) -> dict[str, Tensor]:
    """The adapters' own tensors, under peft's names.

    Not under those of diffusers' converter: it spells attention layers in another way than all others, and its loader,
    finding both in one file, leaves the attention layers out without an error.
    """
    layers: dict[str, Tensor] = get_peft_model_state_dict(module)
    return layers


def _layers(module: torch.nn.Module) -> dict[str, Tensor]:
    layers = _layers_in_place(module)
    return {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in layers.items()}


def _settings(module: torch.nn.Module) -> dict[str, object]:
    config: LoraConfig = module.peft_config["default"]  # type: ignore[index, assignment]
    targets = sorted(config.target_modules or ())  # a set's order differs from process to process
    return {"r": config.r, "lora_alpha": config.lora_alpha, "target_modules": targets}
