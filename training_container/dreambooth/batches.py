"""Which picture, crop and prompt each step sees: a pure function of the seed and the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from contracts.training import Hyperparameters
from training_container.dreambooth.dataset import Frame, Picture
from training_container.dreambooth.draws import StepDraws, generator_for, sample_indices
from training_container.dreambooth.team import ALONE, Team

Encode = Callable[[Sequence[Image.Image]], Tensor]  # N pictures of one size -> (N, 2C, h, w)


@dataclass(frozen=True)
class Encoded:
    """One picture: its moments, of a crop that a draw decides, and its row in the prompt table."""

    moments: Callable[[int], Tensor]  # any number -> (2C, h, w) fp32 on the device
    frame: Frame
    prompt_row: int


@dataclass(frozen=True)
class TrainingSet:
    instance: list[Encoded]
    prior: list[Encoded]  # empty without prior preservation; else each class picture once in each frame


@dataclass(frozen=True)
class Batch:
    """Subject pictures, then as many class pictures with prior preservation; all of one size."""

    moments: Tensor
    prompt_rows: list[int]
    draws: StepDraws


def encode_once(picture: Picture, encode: Encode, prompt_row: int) -> Encoded:
    """The crops that it has, encoded now; the posterior is still drawn anew at every step."""
    rows = encode(picture.crops)
    return Encoded(lambda draw: rows[draw % len(rows)], picture.frame, prompt_row)


def encode_always(picture: Picture, encode: Encode, prompt_row: int) -> Encoded:
    """Cut and encoded at every step."""
    return Encoded(lambda draw: encode([picture.fresh_crop(draw)])[0], picture.frame, prompt_row)


def batch_at(
    data: TrainingSet, settings: Hyperparameters, step: int, micro: int, num_timesteps: int, team: Team = ALONE
) -> Batch:
    """step counts optimiser steps from 0; micro counts the passes that one step accumulates.

    The team's processes together see the batch that one process with batch_size x size would see.
    """
    seed, size = settings.seed, settings.batch_size * team.size
    number = step * settings.gradient_accumulation_steps + micro
    chosen = choose_instances(data.instance, seed, number, size)
    mine = team.share_of(list(range(size)))
    if data.prior:
        same_size = [picture for picture in data.prior if picture.frame == chosen[0].frame]
        chosen += [same_size[i] for i in sample_indices(seed, "class", number * size, size, len(same_size))]
        mine += [size + place for place in mine]
    generator = generator_for(seed, "step", step, micro)
    crops = torch.randint(0, 2**31, (len(chosen),), generator=generator).tolist()
    moments = torch.stack([chosen[place].moments(crops[place]) for place in mine])
    shape = (len(chosen), moments.shape[1] // 2, *moments.shape[2:])
    draws = StepDraws.of(generator, shape, num_timesteps).at(mine).to(moments.device)
    return Batch(moments, [chosen[place].prompt_row for place in mine], draws)


def choose_instances(pictures: list[Encoded], seed: int, number: int, size: int) -> list[Encoded]:
    """The pictures of batch `number`: the next of a shuffled sequence; where frames differ, its first picture is,
    and the others are of that one's frame."""
    if len({picture.frame for picture in pictures}) == 1:
        return [pictures[i] for i in sample_indices(seed, "instance", number * size, size, len(pictures))]
    [first] = sample_indices(seed, "instance", number, 1, len(pictures))
    fellows = [picture for picture in pictures if picture.frame == pictures[first].frame]
    others = sample_indices(seed, "fellows", number * (size - 1), size - 1, len(fellows))
    return [pictures[first], *(fellows[i] for i in others)]
