"""LoRA weights under the names that kohya's trainer gave them, which ComfyUI and A1111 read.

A layer's name is its path in diffusers with underscores for dots, behind `lora_unet_` or `lora_te_`, and each layer
carries its own `alpha`. The file has no header: from one without `ss_v2`, A1111 concludes that it is for version 1.x.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dreamdrop.formats import Dtype
from dreamdrop.formats.adapter import Layer, Network, Update, read_adapter
from dreamdrop.formats.numbers import DTYPES, converted

_PREFIXES: dict[Network, str] = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}


def write_kohya(adapter: Path, out: Path, dtype: Dtype) -> None:
    """`adapter`: the .safetensors file that a training leaves. Raises InvalidRequest."""
    save_file(to_kohya(read_adapter(adapter), DTYPES[dtype]), out)


def to_kohya(updates: Mapping[Layer, Update], dtype: torch.dtype) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for layer, update in updates.items():
        name = _PREFIXES[layer.network] + layer.path.replace(".", "_")
        weights[f"{name}.lora_down.weight"] = converted(name, update.down, dtype)
        weights[f"{name}.lora_up.weight"] = converted(name, update.up, dtype)
        weights[f"{name}.alpha"] = torch.tensor(update.alpha)
    return weights
