"""A diffusers directory, with an adapter merged into it or not, to one file in Stable Diffusion's original layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel

from contracts.artifact import LEARNED_WORDS, WORD_IDS, WORD_ROWS
from contracts.errors import InvalidBaseModel, InvalidRequest
from dreamdrop.formats import Dtype
from dreamdrop.formats.adapter import Layer, Update, merge, read_adapter
from dreamdrop.formats.architecture import differences, recognise
from dreamdrop.formats.names import CLIP, OPENCLIP, UNET, VAE, Part
from dreamdrop.formats.numbers import DTYPES, converted

HEADER = {"format": "pt"}  # one entry: safetensors writes several in any order, and the same weights give one file
_CURE = "Export it with --format diffusers; ComfyUI and A1111 load models of Stable Diffusion 1.x and 2.x only."


def write_checkpoint(directory: Path, out: Path, dtype: Dtype, adapter: Path | None = None) -> None:
    """`adapter`: a LoRA file to merge into the weights, with the words beside it that it has learned.

    Raises InvalidRequest for a model of another structure.
    """
    number_format = torch.float32 if adapter else DTYPES[dtype]
    options: dict[str, Any] = {"dtype": number_format, "use_safetensors": True, "local_files_only": True}
    unet = UNet2DConditionModel.from_pretrained(directory, subfolder="unet", **options)
    vae = AutoencoderKL.from_pretrained(directory, subfolder="vae", **options)
    text_encoder = CLIPTextModel.from_pretrained(directory / "text_encoder", **options)
    updates: dict[Layer, Update] = read_adapter(adapter) if adapter else {}
    if adapter and (words := adapter.with_name(LEARNED_WORDS)).is_file():
        _put_in(words, text_encoder)
    text_config = text_encoder.config.to_dict()
    states: dict[Part, Mapping[str, Tensor]] = {
        UNET: merge(unet.state_dict(), "unet", updates),
        VAE: vae.state_dict(),
        OPENCLIP if text_config["hidden_act"] == "gelu" else CLIP: merge(
            text_encoder.state_dict(), "text_encoder", updates
        ),
    }
    configs = {"unet": unet.config, "vae": vae.config, "text_encoder": text_config}
    save_file(original_weights(states, configs, DTYPES[dtype]), out, HEADER)


def _put_in(words: Path, text_encoder: CLIPTextModel) -> None:
    saved = load_file(words)
    table: Any = text_encoder.get_input_embeddings()
    with torch.no_grad():
        table.weight[saved[WORD_IDS]] = saved[WORD_ROWS]


def original_weights(
    states: Mapping[Part, Mapping[str, Tensor]], configs: Mapping[str, Mapping[str, Any]], dtype: torch.dtype
) -> dict[str, Tensor]:
    """The weights under their original names. Raises InvalidRequest when a reader could not rebuild the networks."""
    try:
        weights = {
            original: _joined(part, original, [state[name] for name in names])
            for part, state in states.items()
            for original, names in part.by_original(state).items()
        }
        wrong = differences(recognise({name: tuple(weight.shape) for name, weight in weights.items()}), configs)
    except InvalidBaseModel as error:
        raise InvalidRequest(f"The model does not fit the original layout. {error.cause}", _CURE) from error
    if wrong:
        raise InvalidRequest(f"The model differs from Stable Diffusion 1.x and 2.x in {', '.join(wrong)}.", _CURE)
    return {name: converted(name, weight, dtype) for name, weight in weights.items()}


def _joined(part: Part, original: str, pieces: list[Tensor]) -> Tensor:
    weight = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
    if part is VAE and ".attn_1." in original and weight.ndim == 2:
        return weight[:, :, None, None]  # the original has a convolution of one pixel here
    return weight
