"""A LoRA file as a training leaves it: for each layer two small matrices and how much their product counts.

Hu et al. 2021, arXiv 2106.09685: a layer's weight becomes W + alpha / rank x up @ down.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors import safe_open
from torch import Tensor

from contracts.errors import InvalidRequest

Network = Literal["unet", "text_encoder"]

# peft's spelling and the two of diffusers; one file may mix them
_WEIGHT = re.compile(
    r"(?P<network>unet|text_encoder)\.(?:text_model\.)?(?P<path>.+)\."
    r"(?:(?P<down>lora_A|lora(?:_linear_layer)?\.down)|lora_B|lora(?:_linear_layer)?\.up)\.weight"
)


class Layer(NamedTuple):
    network: Network
    path: str  # of the module inside the network


@dataclass(frozen=True)
class Update:
    down: Tensor
    up: Tensor
    alpha: float

    def difference(self) -> Tensor:
        """What the layer's weight gains, in its shape up to trailing ones. A convolution's kernel is all in `down`."""
        rank = len(self.down)
        product = self.up.flatten(1).double() @ self.down.flatten(1).double()
        return (product * (self.alpha / rank)).reshape(len(self.up), *self.down.shape[1:])


def read_adapter(file: Path) -> dict[Layer, Update]:
    with safe_open(file, framework="pt") as opened:
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
        header = json.loads((opened.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY, "{}"))
    return updates_of(weights, header)


def updates_of(weights: Mapping[str, Tensor], header: Mapping[str, Any]) -> dict[Layer, Update]:
    """`header`: alpha by network, as diffusers keeps it; the rank when absent. Raises InvalidRequest."""
    downs: dict[Layer, Tensor] = {}
    ups: dict[Layer, Tensor] = {}
    for name, weight in weights.items():
        found = _WEIGHT.fullmatch(name)
        if found is None:
            raise InvalidRequest(f"The weight {name} is no plain LoRA.", "Export it with --format diffusers.")
        layer = Layer(cast(Network, found["network"]), found["path"])
        (downs if found["down"] else ups)[layer] = weight
    if downs.keys() != ups.keys():
        raise InvalidRequest("The LoRA file holds halves of layers.", "Train the subject again.")
    return {
        layer: Update(down, ups[layer], float(header.get(f"{layer.network}.lora_alpha", len(down))))
        for layer, down in downs.items()
    }


def merge(state: Mapping[str, Tensor], network: Network, updates: Mapping[Layer, Update]) -> dict[str, Tensor]:
    """The network's weights with the updates added, to fp32: an update is small beside what it is added to."""
    merged = dict(state)
    for layer, update in updates.items():
        if layer.network != network:
            continue
        name = f"{layer.path}.weight"
        if name not in merged:
            raise InvalidRequest(f"The LoRA is for a layer that the base model has not: {network} {layer.path}.")
        weight = merged[name]
        merged[name] = (weight.double() + update.difference().reshape(weight.shape)).to(torch.float32)
    return merged
