"""Checkpoints that give the same run back: safetensors and JSON, written aside and renamed, only the newest kept.

checkpoint-<step>/weights.safetensors     the trained weights by name
                  optimizer.safetensors   the optimizer's tensors as <parameter index>.<name>, dicts in dicts as
                                          <parameter index>.<name of the inner one>.<name>
                  average.safetensors     the moving average of the weights by name, if one is kept
                  state.json              everything else, and the sha256 of the files above
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file

from diffusion.verification import sha256_of
from training_container.dreambooth.loop import Learner, RunState

logger = logging.getLogger("training")

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
AVERAGE = "average.safetensors"
PARTIAL = ".checkpoint.partial"
LAYOUT = 3  # raised when names change: a checkpoint of an earlier program is passed over
_NAME = re.compile(r"checkpoint-(\d{8})")


class _SavedState(BaseModel):
    model_config = ConfigDict(extra="forbid")

    fingerprint: str
    step: int
    losses: list[float | None]
    skipped: list[int]
    seconds: float
    held_out_before: float | None
    optimizer_numbers: dict[str, float | int]
    scaler: dict[str, float | int]
    sha256: dict[str, str]


def save_checkpoint(directory: Path, fingerprint: str, learner: Learner, state: RunState) -> Path:
    """Returns the checkpoint's folder."""
    partial = directory / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = {name: weight.detach().contiguous() for name, weight in learner.model.parameters.items()}
    tensors, numbers = _flatten(learner.optimizer.state_dict()["state"])
    save_file(weights, partial / WEIGHTS)
    save_file(tensors, partial / OPTIMIZER)
    if learner.average:
        save_file(learner.average.tensors, partial / AVERAGE)
    saved = _SavedState(
        fingerprint=fingerprint,
        step=state.step,
        losses=state.losses,
        skipped=state.skipped,
        seconds=state.seconds,
        held_out_before=state.held_out_before if math.isfinite(state.held_out_before) else None,
        optimizer_numbers=numbers,
        scaler=learner.scaler.state_dict(),
        sha256={path.name: sha256_of(path) for path in sorted(partial.iterdir())},
    )
    (partial / STATE).write_text(saved.model_dump_json())
    final = directory / f"checkpoint-{state.step:08}"
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    for _, older in _checkpoints(directory):
        if older != final:
            shutil.rmtree(older)
    return final


def restore_newest(directory: Path, fingerprint: str, learner: Learner) -> RunState | None:
    """Puts the newest whole checkpoint of the same run into the learner. None if there is none.

    A copy to S3 is not atomic, so a folder may come back with files missing or cut: such a one is passed over.
    """
    for _, folder in _checkpoints(directory):
        try:
            saved = _SavedState.model_validate_json((folder / STATE).read_bytes())
            whole = all(sha256_of(folder / name) == digest for name, digest in saved.sha256.items())
        except (OSError, ValidationError) as error:
            logger.warning("%s is not whole and is passed over (%s)", folder.name, error)
            continue
        if not whole or saved.fingerprint != fingerprint:
            logger.warning("%s is damaged or of another run and is passed over", folder.name)
            continue
        _restore(folder, saved, learner)
        before = math.nan if saved.held_out_before is None else saved.held_out_before
        return RunState(saved.step, list(saved.losses), list(saved.skipped), saved.seconds, before)
    return None


def _checkpoints(directory: Path) -> list[tuple[int, Path]]:
    """Newest first."""
    if not directory.is_dir():
        return []
    found = [(int(match[1]), path) for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(found, reverse=True)


def _restore(folder: Path, saved: _SavedState, learner: Learner) -> None:
    weights = load_file(folder / WEIGHTS)
    with torch.no_grad():
        for name, parameter in learner.model.parameters.items():
            parameter.copy_(weights[name])
    fresh = learner.optimizer.state_dict()
    state = _unflatten(load_file(folder / OPTIMIZER), saved.optimizer_numbers)
    learner.optimizer.load_state_dict({"state": state, "param_groups": fresh["param_groups"]})
    if learner.average:
        learner.average.restore(load_file(folder / AVERAGE))
    if learner.scaler.is_enabled():
        learner.scaler.load_state_dict(dict(saved.scaler))


def _flatten(state: Mapping[Any, Any], prefix: str = "") -> tuple[dict[str, torch.Tensor], dict[str, float | int]]:
    """Dicts in dicts, as bitsandbytes keeps what it has quantised, by their dotted path."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, float | int] = {}
    for name, value in state.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            inner_tensors, inner_numbers = _flatten(value, f"{path}.")
            tensors |= inner_tensors
            numbers |= inner_numbers
        elif isinstance(value, torch.Tensor):
            # to the host one by one: the GPU has no room for a copy; a copy all the same: 8-bit Adam shares its tables
            tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        else:
            numbers[path] = value
    return tensors, numbers


def _unflatten(tensors: dict[str, torch.Tensor], numbers: dict[str, float | int]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for path, value in (*tensors.items(), *numbers.items()):
        index, *inner, name = path.split(".")
        entries = state.setdefault(int(index), {})
        for key in inner:
            entries = entries.setdefault(key, {})
        entries[name] = value
    return state


def fingerprint_of(*parts: object) -> str:
    """Identifies a run: a checkpoint of other photos, settings or weights must never be continued."""
    return hashlib.sha256(json.dumps([LAYOUT, *parts], sort_keys=True).encode()).hexdigest()
