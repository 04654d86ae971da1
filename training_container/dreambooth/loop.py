"""The training loop: steps, losses and when to save; it knows no files and no SageMaker."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from contracts.errors import TrainingDiverged
from contracts.training import Hyperparameters
from training_container.dreambooth.average import WeightAverage
from training_container.dreambooth.batches import Batch, TrainingSet, batch_at
from training_container.dreambooth.loss import loss_step
from training_container.dreambooth.optimizer import Optimizer, apply_update
from training_container.dreambooth.schedule import NoiseSchedule, learning_rate_at
from training_container.dreambooth.team import ALONE, Team, without_sync
from training_container.dreambooth.text import PromptTable
from training_container.dreambooth.trainable import Trainable

STEPS_BETWEEN_READINGS = 10
SECONDS_BETWEEN_READINGS = 1.0
NON_FINITE_LIMIT = 2  # losses in a row
SKIPPED_LIMIT = 20  # updates in a row: fp16's loss scale, halved at each, has come from 65536 to less than 1


@dataclass
class RunState:
    """What grows while a run goes on; a checkpoint holds it beside the weights."""

    step: int = 0  # optimiser steps done
    losses: list[float | None] = field(default_factory=list)  # one a step; None where it was not finite
    skipped: list[int] = field(default_factory=list)  # the steps that changed no weight: a gradient was not finite
    seconds: float = 0.0  # spent in the loop, over all starts
    held_out_before: float = math.nan


@dataclass(frozen=True)
class Reading:
    step: int
    loss: float  # mean of the steps since the last reading
    learning_rate: float
    seconds_per_step: float


@dataclass(frozen=True)
class Learner:
    """The parts of one run that the loop moves."""

    model: Trainable
    prompts: PromptTable
    data: TrainingSet
    schedule: NoiseSchedule
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    settings: Hyperparameters
    scaling_factor: float
    average: WeightAverage | None = None
    team: Team = ALONE

    def loss_of(self, batch: Batch) -> Tensor:
        return loss_step(
            self.model.predict,
            self.schedule,
            batch.moments,
            self.prompts.embeddings(batch.prompt_rows),
            batch.draws,
            scaling_factor=self.scaling_factor,
            prior_loss_weight=self.settings.prior_loss_weight if self.data.prior else None,
            snr_gamma=self.settings.snr_gamma,
            noise_offset=self.settings.noise_offset,
        )

    @cached_property
    def differentiable(self) -> torch.nn.Module:
        return self.team.parallel(_DifferentiableLoss(self))

    def optimise(self, step: int, learning_rate: float) -> Tensor:
        """One optimiser step. Returns, still on the device, its loss and 1 where it changed no weight, else 0."""
        passes = self.settings.gradient_accumulation_steps
        total = torch.zeros((), device=self.model.precision.device)
        for micro in range(passes):
            batch = batch_at(self.data, self.settings, step, micro, self.schedule.num_timesteps, self.team)
            with nullcontext() if micro == passes - 1 else without_sync(self.differentiable):
                loss = self.differentiable(batch)
                self.scaler.scale(loss / passes).backward()
            total += loss.detach() / passes
        skipped = apply_update(
            self.optimizer,
            self.scaler,
            list(self.model.parameters.values()),
            learning_rate=learning_rate,
            max_grad_norm=self.settings.max_grad_norm,
        )
        if self.average:
            self.average.update(step)
        return torch.stack([self.team.mean(total), skipped.to(total.device)])


class _DifferentiableLoss(torch.nn.Module):
    """What data parallelism must see: the trained networks as one module, and the loss as its forward pass.

    Not a network that is only frozen: it may lie in the host's memory, and DistributedDataParallel wants one device.
    """

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        networks = (learner.model.unet, learner.model.text_encoder)
        self.networks = torch.nn.ModuleList(
            network for network in networks if any(weight.requires_grad for weight in network.parameters())
        )
        self._loss_of = learner.loss_of

    def forward(self, batch: Batch) -> Tensor:
        return self._loss_of(batch)


def read_losses(state: RunState, pending: list[Tensor]) -> list[float]:
    """Brings what the steps have left to the host and into the state. Returns the finite losses.

    pending: of each step its loss, and 1 where it changed no weight. Raises TrainingDiverged.
    """
    readings = torch.stack(pending).tolist() if pending else []
    pending.clear()
    for loss, skipped in readings:
        state.losses.append(loss if math.isfinite(loss) else None)
        step = len(state.losses)
        if skipped:
            state.skipped.append(step)
        if state.losses[-NON_FINITE_LIMIT:] == [None] * NON_FINITE_LIMIT:
            raise TrainingDiverged(f"The loss was not a finite number at steps {step - 1} and {step}.")
        if state.skipped[-SKIPPED_LIMIT:] == [*range(step - SKIPPED_LIMIT + 1, step + 1)]:
            raise TrainingDiverged(
                f"No step from {step - SKIPPED_LIMIT + 1} to {step} changed the model: a gradient was not finite."
            )
    return [loss for loss, _ in readings if math.isfinite(loss)]


def run_loop(
    learner: Learner,
    state: RunState,
    total_steps: int,
    *,
    stop_requested: Callable[[], bool],
    save: Callable[[], object],
    report: Callable[[Reading], None],
) -> bool:
    """Trains from state.step up to total_steps. Returns False if it was asked to stop before that, having saved.

    The host waits for the device only to read the losses: every ten steps, or once a second where steps are slow.
    """
    settings = learner.settings
    rate = learning_rate_at(
        settings.lr_scheduler, settings.effective_learning_rate, settings.lr_warmup_steps, total_steps
    )
    learner.model.train_mode(True)
    pending: list[Tensor] = []
    last_reading = time.monotonic()
    while state.step < total_steps:
        pending.append(learner.optimise(state.step, rate(state.step)))
        state.step += 1
        done, stopping = state.step == total_steps, stop_requested()
        saving = stopping or (state.step % settings.save_steps == 0 and not done)
        waited = time.monotonic() - last_reading
        if done or saving or len(pending) >= STEPS_BETWEEN_READINGS or waited >= SECONDS_BETWEEN_READINGS:
            steps = len(pending)
            losses = read_losses(state, pending)
            now = time.monotonic()
            state.seconds += now - last_reading
            mean = sum(losses) / len(losses) if losses else math.nan
            report(Reading(state.step, mean, rate(state.step - 1), (now - last_reading) / steps))
            last_reading = now
        if saving:
            save()
            last_reading = time.monotonic()
        if stopping and not done:
            return False
    return True
