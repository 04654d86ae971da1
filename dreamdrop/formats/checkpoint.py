"""Reads the weights of a .safetensors or .ckpt file. Nothing in the file is ever executed."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from contracts.errors import InvalidBaseModel

SUFFIXES = (".safetensors", ".ckpt")

_WANTED_CODE = re.compile(r"Unsupported global: GLOBAL (\S+)")


class _Inert:
    """In place of a class that is named in the file, and of which nothing is wanted."""


# PyTorch Lightning, by which the first Stable Diffusions were trained, keeps its callbacks' states under their classes.
_NAMED_IN_PASSING: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Inert, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
]
_OTHER_FILE = "Take the .safetensors file of the model; most are published as one."


def read_weights(file: Path) -> dict[str, Tensor]:
    """Name in the file -> weight, mapped into memory where the format allows. Raises InvalidBaseModel."""
    if file.suffix.lower() not in SUFFIXES:
        raise InvalidBaseModel(
            f"{file} is neither a directory nor a {' or '.join(SUFFIXES)} file.",
            "Name a diffusers directory, or the one file that a whole Stable Diffusion was published as.",
        )
    content = _read_safetensors(file) if file.suffix.lower() == ".safetensors" else _read_pickle(file)
    while isinstance(content.get("state_dict"), dict):  # as PyTorch Lightning wraps it
        content = content["state_dict"]
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _read_safetensors(file: Path) -> dict[Any, Any]:
    try:
        return dict(load_file(file))
    except SafetensorError as error:
        raise InvalidBaseModel(f"{file} is not in the safetensors format ({error}).", "Download it again.") from error


def _read_pickle(file: Path) -> dict[Any, Any]:
    try:
        # warnings: about pickles of unusual makers, which are read or refused
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_NAMED_IN_PASSING):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        # torch's own message tells how to read the file unsafely, so it is not passed on
        wanted = _WANTED_CODE.search(str(error))
        what = f" (it asks for {wanted[1]})" if wanted else ""
        raise InvalidBaseModel(
            f"{file} is a pickle that holds more than weights{what}: reading it could run foreign code.", _OTHER_FILE
        ) from None
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise InvalidBaseModel(
            f"{file} cannot be read as a checkpoint ({type(error).__name__}).", f"Download it again. {_OTHER_FILE}"
        ) from error
    if not isinstance(content, dict):
        raise InvalidBaseModel(f"{file} holds no named weights.", _OTHER_FILE)
    return content
