"""One training loop for every stage: AdamW, warm-up and cosine, averaged weights, resumable at any step."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)

STEPS_BETWEEN_REPORTS = 100
FINAL_PART_OF_RATE = 0.02
LARGEST_GRADIENT = 1.0
AVERAGE_DECAY = 0.999


@dataclass(frozen=True)
class Recipe:
    steps: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup: int = 100
    seed: int = 0
    steps_between_checkpoints: int = 500
    cooldown: float = 1.0  # the last part of the steps, in which the rate falls along a cosine


def rate_at(recipe: Recipe, step: int) -> float:
    rise = min(1.0, (step + 1) / recipe.warmup)
    start = recipe.steps * (1 - recipe.cooldown)
    done = max(0.0, (step - start) / max(1.0, recipe.steps - start))
    fall = FINAL_PART_OF_RATE + (1 - FINAL_PART_OF_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return recipe.learning_rate * rise * fall


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def place(module: Module) -> Module:
    """On the device, in the layout that convolutions are fastest in."""
    nn.Module.to(module, device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


def frozen(module: Module) -> Module:
    nn.Module.eval(module.requires_grad_(False))
    return module


def generator_at(seed: int, step: int) -> torch.Generator:
    """On the CPU, so that every machine draws the same."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def fit(
    folder: Path,
    modules: Mapping[str, nn.Module],
    recipe: Recipe,
    loss_at: Callable[[torch.Generator], tuple[Tensor, dict[str, float]]],
    examine: Callable[[], dict[str, float]] | None = None,
) -> None:
    """Trains what requires a gradient in `modules`, in place; leaves the averaged weights in them.

    loss_at gets the step's own generator. The log is folder/log.jsonl, the checkpoint folder/checkpoint.pt.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = [weight for module in modules.values() for weight in module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, recipe.learning_rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay, fused=True
    )
    average = [weight.detach().clone() for weight in weights]
    step, seconds = _restore(folder, weights, average, optimizer)
    started, recent = time.monotonic(), []
    for module in modules.values():
        module.train()
    while step < recipe.steps:
        for group in optimizer.param_groups:
            group["lr"] = rate_at(recipe, step)
        loss, parts = loss_at(generator_at(recipe.seed, step))
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(weights, LARGEST_GRADIENT)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        _average(average, weights, min(AVERAGE_DECAY, (1 + step) / (10 + step)))
        recent.append({"loss": loss.item(), "gradient": norm.item()} | parts)
        if step % STEPS_BETWEEN_REPORTS == 0 or step == recipe.steps:
            means = {name: sum(item[name] for item in recent) / len(recent) for name in recent[0]}
            recent = []
            entry = {"step": step, "seconds": seconds + time.monotonic() - started} | means
            if examine and (step % recipe.steps_between_checkpoints == 0 or step == recipe.steps):
                entry |= _examined(examine, modules, weights, average)
            _report(folder, entry, recipe.steps)
        if step % recipe.steps_between_checkpoints == 0 or step == recipe.steps:
            _save(folder, weights, average, optimizer, step, seconds + time.monotonic() - started)
    _assign(weights, average)
    for module in modules.values():
        module.eval()


@torch.no_grad()
def _average(average: list[Tensor], weights: list[nn.Parameter], decay: float) -> None:
    torch._foreach_lerp_(average, [weight.detach() for weight in weights], 1 - decay)


@torch.no_grad()
def _assign(weights: list[nn.Parameter], values: list[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)


def _examined(
    examine: Callable[[], dict[str, float]],
    modules: Mapping[str, nn.Module],
    weights: list[nn.Parameter],
    average: list[Tensor],
) -> dict[str, float]:
    """With the averaged weights in place."""
    kept = [weight.detach().clone() for weight in weights]
    _assign(weights, average)
    for module in modules.values():
        module.eval()
    with torch.no_grad():
        found = examine()
    for module in modules.values():
        module.train()
    _assign(weights, kept)
    return found


def _report(folder: Path, entry: dict[str, float], steps: int) -> None:
    rounded = {name: round(value, 5) for name, value in entry.items()}
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(rounded) + "\n")
    told = " ".join(f"{name}={value:g}" for name, value in rounded.items() if name != "step")
    sys.stdout.write(f"{folder.name} {rounded['step']:.0f}/{steps} {told}\n")
    sys.stdout.flush()


def _save(
    folder: Path,
    weights: list[nn.Parameter],
    average: list[Tensor],
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
) -> None:
    """Whole or not at all: written beside, then renamed."""
    state = {
        "weights": [weight.detach() for weight in weights],
        "average": average,
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    torch.save(state, folder / "checkpoint.new")
    (folder / "checkpoint.new").replace(folder / "checkpoint.pt")


def _restore(
    folder: Path, weights: list[nn.Parameter], average: list[Tensor], optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    path = folder / "checkpoint.pt"
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, map_location=device(), weights_only=True)
    _assign(weights, state["weights"])
    for kept, value in zip(average, state["average"], strict=True):
        kept.copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["seconds"])
