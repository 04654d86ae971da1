"""Which layers have adapters, and the file of adapters that diffusers loads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from contracts.artifact import LORA_WEIGHTS
from contracts.training import Hyperparameters, LoraTargets
from diffusion import lora
from diffusion.text_encoder import TextEncoder
from diffusion.unet import UNet
from training_container.dreambooth.draws import generator_for

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out")
AROUND_ATTENTION = ("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "time_emb_proj")
UNET_TARGETS: dict[LoraTargets, tuple[str, ...]] = {
    "attention": ATTENTION,
    "all": (*ATTENTION, *AROUND_ATTENTION, *CONVOLUTIONS),
}
TEXT_ENCODER_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class LoraSettings:
    rank: int
    alpha: float
    targets: LoraTargets

    @classmethod
    def of(cls, wanted: Hyperparameters) -> LoraSettings:
        return cls(wanted.lora_rank, wanted.lora_alpha or wanted.lora_rank, wanted.lora_targets)

    def header(self, targets: tuple[str, ...]) -> dict[str, object]:
        return {"r": self.rank, "lora_alpha": self.alpha, "target_modules": sorted(targets)}


def add_adapters(unet: UNet, text_encoder: TextEncoder | None, settings: LoraSettings, *, seed: int) -> None:
    """Adds trainable adapters to the UNet, and to the text encoder if one is given. The same seed, the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(seed, "lora").initial_seed())
        add_unet_adapters(unet, settings)
        if text_encoder is not None:
            add_text_encoder_adapters(text_encoder, settings)


def add_unet_adapters(unet: UNet, settings: LoraSettings) -> None:
    lora.add_adapters(unet, UNET_TARGETS[settings.targets], rank=settings.rank, alpha=settings.alpha)


def add_text_encoder_adapters(text_encoder: TextEncoder, settings: LoraSettings) -> None:
    lora.add_adapters(text_encoder, TEXT_ENCODER_TARGETS, rank=settings.rank, alpha=settings.alpha)


def save_adapters(directory: Path, unet: UNet, text_encoder: TextEncoder | None, settings: LoraSettings) -> None:
    """Writes pytorch_lora_weights.safetensors for `pipeline.load_lora_weights`; rank and alpha go into its header.

    The same weights give the same bytes: the header has one entry, since safetensors writes several in any order.
    """
    layers: dict[str, Tensor] = {}
    header: dict[str, object] = {}
    targets = {"unet": UNET_TARGETS[settings.targets], "text_encoder": TEXT_ENCODER_TARGETS}
    for prefix, module in (("unet", unet), ("text_encoder", text_encoder)):
        if module is not None:
            for name, weight in lora.adapter_weights(module).items():
                layers[f"{prefix}.{name}"] = weight.detach().to("cpu", torch.float32).contiguous()
            header |= {f"{prefix}.{name}": value for name, value in settings.header(targets[prefix]).items()}
    save_file(layers, directory / LORA_WEIGHTS, {lora.METADATA: json.dumps(header, sort_keys=True)})


@torch.no_grad()
def load_adapters(directory: Path, unet: UNet, text_encoder: TextEncoder | None) -> None:
    """Into adapters that were added before. Raises ValueError if they are of other layers, or OSError."""
    saved = load_file(directory / LORA_WEIGHTS)
    for prefix, module in (("unet.", unet), ("text_encoder.", text_encoder)):
        if module is None:
            continue
        own = {name.removeprefix(prefix): tensor for name, tensor in saved.items() if name.startswith(prefix)}
        layers = lora.adapter_weights(module)
        if own.keys() != layers.keys():
            raise ValueError(f"{LORA_WEIGHTS} has adapters of other layers")
        for name, layer in layers.items():
            layer.copy_(own[name])
