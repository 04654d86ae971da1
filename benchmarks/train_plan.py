"""Which trainings are timed, on which model, and the bars that they are to clear.

On the CPU two models. `sd21/4` is Stable Diffusion 2.1-base with every width divided by four, at 128 pixels: as many
layers of the UNet and the VAE as the original, and its proportions of arithmetic (VAE encoding to UNet forward 1.5,
there 1.4; two of the text encoder's layers, so that it stays at 2 % of a step, there 1 %). It is wide enough that 95 %
of a step is spent in operators rather than in Python, and a batch of two keeps torch from its fallback convolution,
which it takes for one small picture and one thread. `toyworld` is the base model that people train locally, with the
batch that it recommends. On a GPU it is the original's architecture at 512 pixels. Weights are random where nothing is
pretrained: no operator's time depends on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.machine import Device
from benchmarks.models import ModelName
from benchmarks.outcomes import Bar
from contracts.training import Hyperparameters

WARM_UP = 5  # steps that are not counted
LORA_RANK = 4
MEASURED: Mapping[Device, int] = {"cpu": 20, "cuda": 100}
PHOTOS = 4  # batches divide it: the reference's last batch of an epoch would be a short one, and a quick step
CLASS_PICTURES: Mapping[Device, int] = {"cpu": 24, "cuda": 100}
NEVER = 10**6  # steps

SPEED, PROCESSOR = "steps a second", "processor seconds a step"
START, MEMORY = "seconds to the first step", "peak memory in MiB"


@dataclass(frozen=True)
class Case:
    name: str
    model: ModelName
    settings: Hyperparameters
    bars: Mapping[str, Bar]  # on ours divided by the reference's


@dataclass(frozen=True)
class Floor:
    """The least that one step of sd21 must do."""

    teraflops: float
    gigabytes: float  # weights, gradients and moments, each moved as seldom as can be


# Forward and both backward passes of the UNet; LoRA has no weight gradients of the frozen layers. Bytes: half-precision
# weights read twice, half-precision gradients, 8-bit moments and one pass over fp32 weights.
FLOORS: Mapping[str, Floor] = {
    "full": Floor(2.413, 20.8),
    "full, prior": Floor(4.826, 20.8),
    "lora": Floor(1.609, 0.0),
}

# Dense half precision in TFLOP/s and memory in GB/s, as the makers state them; by a part of the device's name.
PEAKS: Mapping[str, tuple[float, float]] = {
    "T4": (65, 320),
    "A10G": (70, 600),
    "A100": (312, 1555),
    "H100": (989, 3350),
    "H200": (989, 4800),
}


def cases_on(device: Device) -> list[Case]:
    if device == "cuda":
        small_memory = {START: Bar("at most", 0.6), MEMORY: Bar("at most", 0.6)}
        asked = {"resolution": 512, "mixed_precision": "bf16", "num_class_images": CLASS_PICTURES[device]}
        return [
            Case("full", "sd21", _full(**asked), {SPEED: Bar("at least", 1.8), **small_memory}),
            Case("lora", "sd21", _lora(**asked), {SPEED: Bar("at least", 2.2), **small_memory}),
            Case("full, prior", "sd21", _full(prior=True, **asked), {SPEED: Bar("at least", 1.8), **small_memory}),
        ]
    bars = {SPEED: Bar("at least", 1.5), START: Bar("at most", 0.6)}
    on_cpu = {"mixed_precision": "no", "num_class_images": CLASS_PICTURES[device]}
    asked, toy = on_cpu | {"resolution": 128, "batch_size": 2}, on_cpu | {"resolution": 64, "batch_size": 4}
    return [
        Case("full", "sd21/4", _full(**asked), bars),
        Case("full, prior", "sd21/4", _full(prior=True, **asked), bars),
        Case("lora", "sd21/4", _lora(**asked), bars),
        Case("lora, prior", "sd21/4", _lora(prior=True, **asked), bars),
        Case("toyworld, full", "toyworld", _full(**toy), bars),
        Case("toyworld, lora", "toyworld", _lora(**toy), bars),
    ]


def _full(**asked: Any) -> Hyperparameters:
    return _settings(method="full", learning_rate=5e-6, **asked)


def _lora(**asked: Any) -> Hyperparameters:
    return _settings(method="lora", learning_rate=1e-4, **asked)


def _settings(*, prior: bool = False, **asked: Any) -> Hyperparameters:
    return Hyperparameters(
        with_prior_preservation=prior, max_steps=NEVER, save_steps=NEVER, lora_rank=LORA_RANK, **asked
    )


def share_of_floor(case: Case, steps_a_second: float, gpu: str) -> float | None:
    """Of the time that a step takes, what the device's peaks would need; None where either is unknown."""
    floor = FLOORS.get(case.name) if case.model == "sd21" else None
    peaks = next((peaks for name, peaks in PEAKS.items() if name in gpu), None)
    if floor is None or peaks is None:
        return None
    teraflops_a_second, gigabytes_a_second = peaks
    return max(floor.teraflops / teraflops_a_second, floor.gigabytes / gigabytes_a_second) * steps_a_second
