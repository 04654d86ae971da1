"""LoRA subjects: worn by the base model, one or several at once, at full speed.

W' = W + sum of scale x up x down (Hu et al. 2021, arXiv 2106.09685, section 4.1: no latency at inference). The base
model's own weights are kept beside and put back exactly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from contracts.artifact import LORA_WEIGHTS
from diffusion.lora import DOWN_SUFFIX, METADATA, UP_SUFFIX
from inference_container.words import Words


@dataclass(frozen=True)
class Layer:
    down: Tensor  # (rank, in, ...)
    up: Tensor  # (out, rank, ...)
    scale: float  # alpha / rank

    def change(self, shape: torch.Size, device: torch.device) -> Tensor:
        """What it adds to the weight of its layer, fp32."""
        up, down = self.up.to(device, torch.float32), self.down.to(device, torch.float32)
        return (up.flatten(1) @ down.flatten(1)).reshape(shape)


@dataclass(frozen=True)
class Adapter:
    layers: Mapping[str, Layer]  # by the name of the weight that it changes: unet.<module>.weight
    words: Words | None

    @property
    def bytes(self) -> int:
        return sum(layer.up.nbytes + layer.down.nbytes for layer in self.layers.values())

    def to(self, device: torch.device) -> Adapter:
        moved = {
            name: Layer(layer.down.to(device), layer.up.to(device), layer.scale) for name, layer in self.layers.items()
        }
        return Adapter(moved, self.words)


class Worn(NamedTuple):
    key: str
    adapter: Adapter
    scale: float


class Wardrobe:
    """The weights of the base model, and what is on them now."""

    def __init__(self, unet: torch.nn.Module, text_encoder: torch.nn.Module) -> None:
        self._weights: dict[str, Tensor] = {
            f"{prefix}.{name}": weight
            for prefix, module in (("unet", unet), ("text_encoder", text_encoder))
            for name, weight in module.named_parameters()
        }
        self._pristine: dict[str, Tensor] = {}
        self._worn: tuple[tuple[str, float], ...] | None = ()  # None: a change was cut short
        self._changed: set[str] = set()

    @property
    def bytes(self) -> int:
        """Of the base model's weights that are kept beside."""
        return sum(weight.nbytes for weight in self._pristine.values())

    def put_away(self) -> None:
        """Frees what is kept beside: nothing is worn."""
        self.wear([])
        self._pristine.clear()

    def read(self, directory: Path, words: Words | None) -> Adapter:
        """Raises ValueError if the adapter does not fit the base model, OSError or SafetensorError if it is none."""
        with safe_open(directory / LORA_WEIGHTS, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
            settings = json.loads((file.metadata() or {}).get(METADATA, "{}"))
        layers: dict[str, Layer] = {}
        for name, down in tensors.items():
            if not name.endswith(DOWN_SUFFIX):
                continue
            layer = name.removesuffix(DOWN_SUFFIX)
            up = tensors.get(layer + UP_SUFFIX)
            weight = self._weights.get(f"{layer}.weight")
            if up is None or weight is None or not _fits(weight, up, down):
                raise ValueError(f"the adapter of {layer[:80]} does not fit the base model")
            prefix = layer.partition(".")[0]
            rank = down.shape[0]
            alpha = settings.get(f"{prefix}.lora_alpha", rank)
            layers[f"{layer}.weight"] = Layer(down, up, float(alpha) / rank)
        if 2 * len(layers) != len(tensors) or not layers:
            raise ValueError("no weight in it, or not every one, belongs to a layer of the base model")
        return Adapter(layers, words)

    @torch.no_grad()
    def wear(self, outfit: Sequence[Worn]) -> None:
        """These and no others. Nothing to do if they are on already."""
        wanted = tuple((worn.key, worn.scale) for worn in outfit)
        if wanted == self._worn:
            return
        self._worn = None  # until it is done
        touched = {name for worn in outfit for name in worn.adapter.layers}
        for name in (self._changed - touched) & self._pristine.keys():
            self._weights[name].copy_(self._pristine[name])
        self._changed |= touched  # should one of them fail, all are put back the next time
        for name in touched:
            weight = self._weights[name]
            if name not in self._pristine:
                self._pristine[name] = weight.clone()
            total = self._pristine[name].float()
            for worn in outfit:
                if layer := worn.adapter.layers.get(name):
                    total = total + worn.scale * layer.scale * layer.change(weight.shape, weight.device)
            weight.copy_(total)
        self._changed = touched
        self._worn = wanted


def _fits(weight: Tensor, up: Tensor, down: Tensor) -> bool:
    rank = down.shape[0]
    inner = weight[0].numel()
    return down.numel() == rank * inner and up.shape[0] == weight.shape[0] and up.numel() == weight.shape[0] * rank
