"""How a training fits into the GPU's memory: pure decisions.

A ladder of ever thriftier ways to do what was asked; the first that fits is taken, and after an out-of-memory failure
the workflow asks for a later one. What each costs in speed: docs/decisions/0010-memory-ladder.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from contracts.training import Hyperparameters, TrainingDefaults
from training_container.dreambooth.precision import Gpu
from training_container.footprint import FP32, Footprint

RESERVED = 1.0e9  # bytes: CUDA's context and the libraries' workspaces
USABLE = 0.94  # of what is left; the rest is lost between blocks of different sizes
BLOCK_SHARE = 12  # a checkpointed backward pass recomputes one block at a time, at most such a part of all

Trace = Callable[[Hyperparameters], Footprint]


@dataclass(frozen=True)
class MemoryPlan:
    hyperparameters: Hyperparameters  # as asked, or thriftier
    rung: int  # 0: as asked
    estimate: float | None  # peak bytes; None where there is no GPU

    def describe(self, gpu: Gpu | None) -> str:
        if gpu is None or self.estimate is None:
            return f"rung {self.rung}, no GPU"
        return f"rung {self.rung}, about {self.estimate / 1e9:.1f} of {usable_bytes(gpu) / 1e9:.1f} usable GB"


def plan_memory(
    asked: Hyperparameters,
    defaults: TrainingDefaults,
    tier: int,
    gpu: Gpu | None,
    trace: Trace,
    *,
    goes_on: bool = False,
    processes: int = 1,
) -> MemoryPlan:
    """The first rung that fits, and `tier` rungs further. On the CPU everything fits.

    asked: with mixed_precision settled. trace: the footprint of what given hyperparameters train.
    """
    rungs = ladder(asked, defaults, goes_on=goes_on)
    if gpu is None:
        return MemoryPlan(rungs[tier], tier, None)

    def peak(rung: int) -> float:
        return estimate_peak(rungs[rung], trace(rungs[rung]), processes)

    room, last = usable_bytes(gpu), len(rungs) - 1
    first = next((rung for rung in range(last) if peak(rung) <= room), last)
    chosen = min(first + tier, last)
    return MemoryPlan(rungs[chosen], chosen, peak(chosen))


def ladder(asked: Hyperparameters, defaults: TrainingDefaults, *, goes_on: bool = False) -> list[Hyperparameters]:
    """Each rung keeps the savings of those before it. Five, whether or not each changes anything: a tier is a place.

    goes_on: from an earlier model, whose weights fit the method and the rank that it has, and no others.
    """
    rungs = [asked]
    for save in (_eight_bit_adam, _checkpointing, _one_at_a_time):
        rungs.append(save(rungs[-1]))
    return [*rungs, rungs[-1] if goes_on else _small_lora(rungs[-1], asked, defaults)]


def _eight_bit_adam(before: Hyperparameters) -> Hyperparameters:
    return before.model_copy(update={"use_8bit_adam": True})


def _checkpointing(before: Hyperparameters) -> Hyperparameters:
    return before.model_copy(update={"gradient_checkpointing": True})


def _one_at_a_time(before: Hyperparameters) -> Hyperparameters:
    """The same pictures a step, one after the other, and encoded before the first: the autoencoder can go then."""
    passes = before.gradient_accumulation_steps * before.batch_size
    changes = {
        "batch_size": 1,
        "gradient_accumulation_steps": passes,
        "sample_batch_size": 1,
        "not_cache_latents": False,
    }
    return before.model_copy(update=changes)


def _small_lora(before: Hyperparameters, asked: Hyperparameters, defaults: TrainingDefaults) -> Hyperparameters:
    """Adapters of half the rank; alpha / rank, the scale of the update, is kept."""
    changes: dict[str, object] = {"method": "lora", "lora_rank": max(1, asked.lora_rank // 2)}
    if asked.lora_alpha is not None:
        changes["lora_alpha"] = asked.lora_alpha / 2
    if asked.method == "full":  # a rate meant for all weights is far too small for adapters
        changes["learning_rate"] = defaults.lora.learning_rate
    return before.model_copy(update=changes)


def usable_bytes(gpu: Gpu) -> float:
    return (gpu.memory - RESERVED) * USABLE


def estimate_peak(wanted: Hyperparameters, footprint: Footprint, processes: int = 1) -> float:
    """Bytes at the fullest moment of a step.

    Weights, optimiser, moving average and what encodes pictures are always there. The casts of the weights and the
    activations are there at the start of the backward pass, the gradients at its end; with accumulation they are there
    all the time, and so are the buckets in which DistributedDataParallel keeps them.
    """
    half = wanted.mixed_precision != "no"
    optimizer = (2 if wanted.use_8bit_adam else 8) * footprint.trained
    average = FP32 * footprint.trained if wanted.use_ema else 0
    gradients = FP32 * footprint.trained
    if wanted.method == "lora":
        weights = (2 if half else FP32) * footprint.parameters + FP32 * footprint.trained
        casts = 2 * footprint.trained if half else 0
    else:
        weights = FP32 * footprint.parameters
        casts = 2 * footprint.parameters if half else 0
    pictures = wanted.batch_size * (2 if wanted.with_prior_preservation else 1)
    activations: float = footprint.activations * pictures
    if wanted.gradient_checkpointing:
        activations = footprint.activations_checkpointed * pictures + activations / BLOCK_SHARE
    held = gradients if wanted.gradient_accumulation_steps > 1 or processes > 1 else 0
    return weights + optimizer + average + footprint.encoding + max(held + casts + activations, gradients)
