"""A network's folder in a diffusers directory: config.json, and weights as safetensors, in one file or in several."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from diffusion.autoencoder import Autoencoder
from diffusion.configuration import AutoencoderConfig, TextEncoderConfig, UNetConfig, UnsupportedModel
from diffusion.text_encoder import TextEncoder
from diffusion.unet import UNet

CONFIG = "config.json"
_NAMES_SHOWN = 3
# Names that older versions of the libraries have written.
_OLD_AUTOENCODER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_AUTOENCODER_NAME = re.compile(r"(?<=attentions\.\d\.)(query|key|value|proj_attn)(?=\.(weight|bias)$)")
_TEXT_ENCODER_PREFIX = "text_model."  # transformers 4 reads no other names; 5 reads both and writes none of these
_NO_WEIGHT = "embeddings.position_ids"


def read_unet(folder: Path, dtype: torch.dtype = torch.float32) -> UNet:
    """On the CPU, frozen, in evaluation mode, as are the others.

    Raises UnsupportedModel if it is another kind of network; OSError, ValueError, TypeError or SafetensorError if
    nothing can be made of the files.
    """
    network = UNet(UNetConfig.from_json(_config(folder)))
    _fill(network, folder, dtype)
    return network


def read_autoencoder(folder: Path, dtype: torch.dtype = torch.float32) -> Autoencoder:
    network = Autoencoder(AutoencoderConfig.from_json(_config(folder)))
    _fill(network, folder, dtype)
    return network


def read_text_encoder(folder: Path, dtype: torch.dtype = torch.float32) -> TextEncoder:
    network = TextEncoder(TextEncoderConfig.from_json(_config(folder)))
    _fill(network, folder, dtype)
    return network


def load_weights(network: nn.Module, folder: Path) -> None:
    """Into a network that is there. Raises as the readers do."""
    wanted = dict(network.state_dict())
    with torch.no_grad():
        for name, tensor in _tensors(folder):
            own = wanted.pop(name, None)
            if own is None:
                raise UnsupportedModel(f"the weight {name} is not one of a Stable Diffusion's")
            if own.shape != tensor.shape:
                raise UnsupportedModel(f"{name} has shape {tuple(tensor.shape)} instead of {tuple(own.shape)}")
            own.copy_(tensor)
    if wanted:
        raise UnsupportedModel(f"{len(wanted)} weights are missing: {', '.join([*wanted][:_NAMES_SHOWN])}")


def write_network(network: nn.Module, folder: Path, like: Path) -> None:
    """As diffusers and transformers read it; `like` is the folder that the network was read from. A text encoder's
    weights keep the names that they have there, so that whatever reads the one model reads the other."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(like / CONFIG, folder / CONFIG)
    first, dtype = _first_weight(like)
    prefix = _TEXT_ENCODER_PREFIX if first.startswith(_TEXT_ENCODER_PREFIX) else ""
    weights = {prefix + name: weight.to("cpu", dtype).contiguous() for name, weight in network.state_dict().items()}
    name = "model" if isinstance(network, TextEncoder) else "diffusion_pytorch_model"
    save_file(weights, folder / f"{name}.safetensors", {"format": "pt"})


def stored_dtype(folder: Path) -> torch.dtype:
    """The number format of a network's weights on disk."""
    return _first_weight(folder)[1]


def _first_weight(folder: Path) -> tuple[str, torch.dtype]:
    with safe_open(_weight_files(folder)[0], framework="pt") as file:
        name = str(next(iter(file.keys())))
        tensor: Tensor = file.get_slice(name)[:0]
        return name, tensor.dtype


def _config(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / CONFIG).read_text())
    if not isinstance(config, dict):
        raise UnsupportedModel(f"{CONFIG} is not an object")
    return config


def _fill(network: nn.Module, folder: Path, dtype: torch.dtype) -> None:
    network.to(dtype)
    load_weights(network, folder)
    network.requires_grad_(False).eval()


def _weight_files(folder: Path) -> list[Path]:
    """One file, or the shards that an index names. Other variants (`.fp16.`, `.non_ema.`) beside them are left out."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if indices:
        return [folder / name for name in sorted({*json.loads(indices[0].read_text())["weight_map"].values()})]
    for name in ("diffusion_pytorch_model.safetensors", "model.safetensors"):
        if (folder / name).is_file():
            return [folder / name]
    raise FileNotFoundError(f"{folder.name} has no safetensors weights")


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    for path in _weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  not a mapping
                own = _current_name(name)
                if own != _NO_WEIGHT:
                    yield own, file.get_tensor(name)


def _current_name(name: str) -> str:
    name = name.removeprefix(_TEXT_ENCODER_PREFIX)
    return _OLD_AUTOENCODER_NAME.sub(lambda old: _OLD_AUTOENCODER_NAMES[old[0]], name)
