"""How well the model knows the photos: the loss on noise and timesteps that are never trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training_container.dreambooth.draws import StepDraws, generator_for
from training_container.dreambooth.loss import Predict, loss_step
from training_container.dreambooth.schedule import NoiseSchedule

TIMESTEPS_A_PHOTO = 4
MOST_PHOTOS = 8
HELD_OUT_SEED = 2**32  # no run has it: a run's seed is below


@torch.no_grad()
def held_out_loss(
    predict: Predict, schedule: NoiseSchedule, moments: Sequence[Tensor], embeddings: Tensor, *, scaling_factor: float
) -> float:
    """Mean loss of up to eight photos, each at four timesteps spread over the schedule.

    moments: N times (2C, h, w); embeddings: (N, tokens, width). The draws are the same in every run and at every call.
    """
    spread = torch.arange(TIMESTEPS_A_PHOTO) * 2 + 1
    timesteps = spread * schedule.num_timesteps // (2 * TIMESTEPS_A_PHOTO)
    losses = []
    for photo in range(min(len(moments), MOST_PHOTOS)):
        repeated = moments[photo][None].expand(TIMESTEPS_A_PHOTO, -1, -1, -1)
        shape = (TIMESTEPS_A_PHOTO, repeated.shape[1] // 2, *repeated.shape[2:])
        noise = torch.randn(shape, generator=generator_for(HELD_OUT_SEED, "held out", photo))
        without_offset = torch.zeros((*shape[:2], 1, 1))
        draws = StepDraws(torch.zeros(shape), noise, timesteps, without_offset).to(repeated.device)
        text = embeddings[photo : photo + 1].expand(TIMESTEPS_A_PHOTO, -1, -1)
        losses.append(loss_step(predict, schedule, repeated, text, draws, scaling_factor=scaling_factor))
    return float(torch.stack(losses).mean())
