"""Which picture, crop and prompt each step sees: a pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from contracts.training import Hyperparameters
from training_container.dreambooth.dataset import Picture
from training_container.dreambooth.draws import StepDraws, generator_for, sample_indices


@dataclass(frozen=True)
class Encoded:
    """One picture: `crops` rows of the moments from `first_row` on, and its row in the prompt table."""

    first_row: int
    crops: int
    prompt_row: int


@dataclass(frozen=True)
class TrainingSet:
    moments: Tensor  # (rows, 2C, h, w) fp32 on the device
    instance: list[Encoded]
    prior: list[Encoded]  # empty without prior preservation


@dataclass(frozen=True)
class Batch:
    """Subject pictures, then as many class pictures with prior preservation."""

    moments: Tensor
    prompt_rows: list[int]
    draws: StepDraws


def encode_pictures(
    instance: Sequence[Picture],
    prior: Sequence[Picture],
    encode: Callable[[Sequence[Image.Image]], Tensor],
    prompt_row: Callable[[str], int],
) -> TrainingSet:
    rows: list[Tensor] = []
    entries: list[Encoded] = []
    for picture in (*instance, *prior):
        first = entries[-1].first_row + entries[-1].crops if entries else 0
        entries.append(Encoded(first, len(picture.crops), prompt_row(picture.prompt)))
        rows.append(encode(picture.crops))
    return TrainingSet(torch.cat(rows), entries[: len(instance)], entries[len(instance) :])


def batch_at(data: TrainingSet, settings: Hyperparameters, step: int, micro: int, num_timesteps: int) -> Batch:
    """step counts optimiser steps from 0; micro counts the passes that one step accumulates."""
    seed, size = settings.seed, settings.batch_size
    first = (step * settings.gradient_accumulation_steps + micro) * size
    chosen = [data.instance[i] for i in sample_indices(seed, "instance", first, size, len(data.instance))]
    if data.prior:
        chosen += [data.prior[i] for i in sample_indices(seed, "class", first, size, len(data.prior))]
    generator = generator_for(seed, "step", step, micro)
    crops = torch.randint(0, 2**31, (len(chosen),), generator=generator).tolist()
    rows = [entry.first_row + crop % entry.crops for entry, crop in zip(chosen, crops, strict=True)]
    moments = data.moments[torch.tensor(rows, device=data.moments.device)]
    shape = (len(chosen), moments.shape[1] // 2, *moments.shape[2:])
    draws = StepDraws.of(generator, shape, num_timesteps).to(moments.device)
    return Batch(moments, [entry.prompt_row for entry in chosen], draws)
