"""The maths of DreamBooth against closed forms and against diffusers' own schedulers."""

from __future__ import annotations

import math
from typing import Any, cast, get_args

import pytest
import torch
from diffusers.optimization import get_scheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import EMAModel, compute_snr
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from contracts.errors import TrainingDiverged
from contracts.training import Hyperparameters, LrScheduler
from diffusion.autoencoder import sample_posterior
from training_container.dreambooth.average import WeightAverage
from training_container.dreambooth.draws import StepDraws, generator_for, sample_indices
from training_container.dreambooth.evaluation import held_out_loss
from training_container.dreambooth.loop import RunState, read_losses
from training_container.dreambooth.loss import combine, loss_step
from training_container.dreambooth.optimizer import apply_update, build_optimizer, build_scaler
from training_container.dreambooth.precision import MixedPrecision, Precision
from training_container.dreambooth.schedule import NoiseSchedule, learning_rate_at
from training_container.dreambooth.text import PromptTable

CONFIG = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
CPU = Precision(torch.device("cpu"), "no")


def schedule(prediction_type: str = "epsilon") -> NoiseSchedule:
    return NoiseSchedule.from_scheduler_config({**CONFIG, "prediction_type": prediction_type})


def draws(batch: int) -> StepDraws:
    return StepDraws.of(generator_for(0, "test"), (batch, 4, 8, 8), 1000)


def moments(batch: int) -> Tensor:
    return torch.randn((batch, 8, 8, 8), generator=generator_for(0, "moments"))


def test_epsilon_noise_and_target_are_those_of_diffusers() -> None:
    d, latents = draws(5), torch.randn(5, 4, 8, 8)
    reference = DDPMScheduler(**CONFIG)
    noisy = reference.add_noise(latents, d.noise, d.timesteps)
    torch.testing.assert_close(schedule().add_noise(latents, d.noise, d.timesteps), noisy, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(schedule().target(latents, d.noise, d.timesteps), d.noise)


def test_velocity_target_is_that_of_diffusers() -> None:
    d, latents = draws(5), torch.randn(5, 4, 8, 8)
    velocity = DDPMScheduler(**CONFIG, prediction_type="v_prediction").get_velocity(latents, d.noise, d.timesteps)
    ours = schedule("v_prediction").target(latents, d.noise, d.timesteps)
    torch.testing.assert_close(ours, velocity, rtol=1e-5, atol=1e-6)


def test_a_prediction_type_that_is_not_supported_is_refused() -> None:
    with pytest.raises(ValueError, match="sample"):
        schedule("sample")


def test_there_is_noise_at_timestep_zero_even_for_bf16_latents() -> None:
    zero = torch.zeros(1, 4, 8, 8, dtype=torch.bfloat16)
    noisy = schedule().add_noise(zero, torch.ones_like(zero), torch.tensor([0]))
    assert noisy.dtype == torch.float32
    assert noisy.mean().item() == pytest.approx(math.sqrt(0.00085), rel=1e-4)


def test_prior_preservation_is_the_sum_of_two_means() -> None:
    prediction, target = torch.randn(6, 4, 8, 8), torch.randn(6, 4, 8, 8)
    squares = (prediction - target) ** 2
    expected = squares[:3].mean() + 0.3 * squares[3:].mean()
    torch.testing.assert_close(combine(prediction, target, 0.3), expected)


def test_the_prior_weight_reaches_the_gradient_of_the_class_half_only() -> None:
    target = torch.randn(4, 4, 8, 8)

    def gradient(weight: float) -> Tensor:
        prediction = torch.zeros(4, 4, 8, 8, requires_grad=True)
        combine(prediction, target, weight).backward()
        assert prediction.grad is not None
        return prediction.grad

    torch.testing.assert_close(gradient(2.0)[:2], gradient(1.0)[:2])
    torch.testing.assert_close(gradient(2.0)[2:], 2 * gradient(1.0)[2:])


def test_the_loss_of_a_step_is_its_closed_form() -> None:
    d, m = draws(2), moments(2)
    mean, log_variance = m.chunk(2, dim=1)
    latents = (mean + torch.exp(log_variance / 2) * d.posterior) * 0.18215
    noisy = DDPMScheduler(**CONFIG).add_noise(latents, d.noise, d.timesteps)
    loss = loss_step(lambda x, t, e: 0.5 * x, schedule(), m, torch.zeros(2, 1, 1), d, scaling_factor=0.18215)
    torch.testing.assert_close(loss, ((0.5 * noisy - d.noise) ** 2).mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_weights_are_those_of_diffusers(prediction_type: str) -> None:
    """As train_text_to_image.py has it, which divides by snr + 1 for velocities; here also for one half of a batch."""
    steps = torch.tensor([0, 10, 300, 600, 999])
    snr = compute_snr(DDPMScheduler(**CONFIG), steps)
    expected = torch.stack([snr, 5.0 * torch.ones_like(snr)], dim=1).min(dim=1)[0]
    expected = expected / (snr if prediction_type == "epsilon" else snr + 1)
    torch.testing.assert_close(schedule(prediction_type).min_snr_weights(steps, 5.0), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_with_prior_preservation_weighs_each_sample_by_its_own_timestep(
    batch: int, prediction_type: str
) -> None:
    d, m, plan = draws(2 * batch), moments(2 * batch), schedule(prediction_type)
    loss = loss_step(
        lambda x, t, e: 0.5 * x, plan, m, torch.zeros(2 * batch, 1, 1), d,
        scaling_factor=0.2, prior_loss_weight=0.7, snr_gamma=5.0,
    )  # fmt: skip
    latents = sample_posterior(m, d.posterior) * 0.2
    noisy, target = plan.add_noise(latents, d.noise, d.timesteps), plan.target(latents, d.noise, d.timesteps)
    errors = ((0.5 * noisy - target) ** 2).mean((1, 2, 3)) * plan.min_snr_weights(d.timesteps, 5.0)
    torch.testing.assert_close(loss, errors[:batch].mean() + 0.7 * errors[batch:].mean())


def test_offset_noise_is_part_of_the_noise_and_of_the_target() -> None:
    d, m = draws(2), moments(2)
    seen: list[Tensor] = []

    def predict(noisy: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        seen.append(noisy)
        return torch.zeros_like(noisy)

    with_offset = loss_step(predict, schedule(), m, torch.zeros(2, 1, 1), d, scaling_factor=0.2, noise_offset=0.5)
    loss_step(predict, schedule(), m, torch.zeros(2, 1, 1), d, scaling_factor=0.2)
    noise = d.noise + 0.5 * d.offset
    assert d.offset.shape == (2, 4, 1, 1)
    torch.testing.assert_close(with_offset, (noise**2).mean())
    shift = schedule().sigma[d.timesteps].view(-1, 1, 1, 1) * 0.5 * d.offset
    torch.testing.assert_close(seen[0] - seen[1], shift.expand_as(seen[0]), rtol=1e-4, atol=1e-6)


def test_the_average_is_that_of_diffusers() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    ours = WeightAverage({"weight": weight}, 0.95)
    theirs = EMAModel([weight], decay=0.95)
    for step in range(200):
        weight.data += torch.randn(3, generator=generator_for(0, "walk", step))
        ours.update(step)
        theirs.step([weight])
        torch.testing.assert_close(ours.tensors["weight"], theirs.shadow_params[0], rtol=1e-5, atol=1e-6)
    ours.take_over()
    torch.testing.assert_close(weight.detach(), ours.tensors["weight"])


def test_the_posterior_clamps_its_log_variance() -> None:
    wild = torch.cat([torch.zeros(1, 4, 2, 2), torch.full((1, 4, 2, 2), 1000.0)], dim=1)
    assert sample_posterior(wild, torch.ones(1, 4, 2, 2)).max().item() == pytest.approx(math.exp(10.0), rel=1e-5)


def test_every_epoch_sees_every_photo_once_in_an_order_of_its_own() -> None:
    seen = sample_indices(7, "instance", 0, 30, 10)
    epochs = [seen[0:10], seen[10:20], seen[20:30]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert sample_indices(7, "instance", 13, 4, 10) == seen[13:17]


def test_draws_depend_on_seed_and_step_and_nothing_else() -> None:
    def noise(seed: int, step: int) -> Tensor:
        return torch.randn(8, generator=generator_for(seed, "step", step))

    assert torch.equal(noise(0, 3), noise(0, 3))
    assert not torch.equal(noise(0, 3), noise(0, 4))
    assert not torch.equal(noise(0, 3), noise(1, 3))


@pytest.mark.parametrize("name", get_args(LrScheduler))
def test_every_learning_rate_schedule_is_that_of_diffusers(name: LrScheduler) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    reference = get_scheduler(name, optimizer, num_warmup_steps=5, num_training_steps=20)
    ours = learning_rate_at(name, 1e-4, 5, 20)
    for step in range(20):
        assert ours(step) == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        reference.step()


def updated(gradient: float, **settings: float) -> float:
    weight = torch.nn.Parameter(torch.ones(1))
    wanted = Hyperparameters(learning_rate=0.1, adam_weight_decay=0.0, **settings)  # type: ignore[arg-type]
    optimizer = build_optimizer([weight], wanted.model_copy(update={"use_8bit_adam": True}), CPU)
    weight.grad = torch.full((1,), gradient)
    apply_update(optimizer, build_scaler(CPU), [weight], learning_rate=0.1, max_grad_norm=wanted.max_grad_norm)
    assert weight.grad is None
    return weight.item()


@pytest.mark.parametrize("gradient", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_changes_no_weight(gradient: float) -> None:
    assert updated(gradient) == 1.0
    assert updated(1.0) == pytest.approx(0.9)


def test_gradients_are_clipped_by_the_global_norm() -> None:
    # with a large epsilon AdamW's first step is lr x gradient / (|gradient| + epsilon)
    assert updated(50.0, max_grad_norm=0.5, adam_epsilon=1e3) == pytest.approx(1 - 0.1 * 0.5 / 1000.5, abs=1e-7)


def test_one_loss_that_is_not_finite_is_survived_and_two_in_a_row_are_not() -> None:
    def left(*losses: float) -> list[Tensor]:
        return [torch.tensor([loss, 0.0]) for loss in losses]

    state = RunState()
    assert read_losses(state, left(1.0, math.nan)) == [1.0]
    assert read_losses(state, left(2.0, math.inf)) == [2.0]
    with pytest.raises(TrainingDiverged, match="steps 4 and 5"):
        read_losses(state, left(math.nan, 3.0))


def test_steps_that_change_nothing_are_counted_and_too_many_in_a_row_stop_the_training() -> None:
    def left(skipped: int, steps: int) -> list[Tensor]:
        return [torch.tensor([1.0, skipped])] * steps

    state = RunState()
    read_losses(state, left(1, 19) + left(0, 1) + left(1, 10))
    assert state.skipped == [*range(1, 20), *range(21, 31)]
    with pytest.raises(TrainingDiverged, match="from 21 to 40 changed the model"):
        read_losses(state, left(1, 12))


class Plain:
    """An optimizer that is not ours, as bitsandbytes' is not."""

    def __init__(self, weight: torch.nn.Parameter) -> None:
        self._sgd = torch.optim.SGD([weight], lr=0.1)
        self.param_groups = self._sgd.param_groups
        self.step, self.zero_grad = self._sgd.step, self._sgd.zero_grad


@pytest.mark.parametrize("mixed", ["no", "fp16", "bf16"])
@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize(("gradient", "skipped"), [(1.0, 0), (math.nan, 1), (math.inf, 1)])
def test_every_kind_of_update_tells_whether_it_was_skipped(
    mixed: MixedPrecision, ours: bool, gradient: float, skipped: int
) -> None:
    precision = Precision(torch.device("cpu"), mixed)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = build_optimizer([weight], Hyperparameters(), precision) if ours else cast(Any, Plain(weight))
    scaler = build_scaler(precision)
    scaler.scale((weight * gradient).sum()).backward()
    told = apply_update(optimizer, scaler, [weight], learning_rate=0.1, max_grad_norm=1.0)
    assert told.item() == skipped
    assert (weight.item() == 1.0) is bool(skipped)


class SeenByDispatch(TorchDispatchMode):
    """The names of the operations that reach a device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("trained", [False, True])
def test_prompts_are_looked_up_without_an_index_on_the_device(trained: bool) -> None:
    table = torch.randn(49, 3)
    prompts = PromptTable(
        ["a", "b", "c"],
        cast(Any, lambda prompt: [ord(prompt) - 97, 48]),
        cast(Any, torch.nn.Embedding.from_pretrained(table)),
        CPU,
        trained=trained,
    )
    with SeenByDispatch() as seen:
        found = prompts.embeddings([2, 0, 2])
    assert torch.equal(found, table[torch.tensor([[2, 48], [0, 48], [2, 48]])])
    assert not seen.names & {"aten.index", "aten._to_copy", "aten.lift_fresh"}


def test_draws_go_to_a_gpu_from_pinned_memory_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[Tensor] = []
    sent: list[tuple[Tensor, bool]] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor.clone())
        return pinned[-1]

    def to(tensor: Tensor, _device: torch.device, *, non_blocking: bool = False) -> Tensor:
        sent.append((tensor, non_blocking))
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "to", to)
    draws(2).to(torch.device("cuda"))
    assert len(sent) == 4
    assert all(tensor is source and non_blocking for (tensor, non_blocking), source in zip(sent, pinned, strict=True))


def test_the_held_out_loss_is_the_same_at_every_call() -> None:
    def score() -> float:
        return held_out_loss(lambda x, t, e: x, schedule(), moments(3), torch.zeros(3, 1, 1), scaling_factor=0.2)

    assert score() == score() > 0


def test_scaled_fp16_gradients_give_the_update_of_plain_ones() -> None:
    half = Precision(torch.device("cpu"), "fp16")
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = build_optimizer([weight], Hyperparameters(adam_weight_decay=0.0), half)
    scaler = build_scaler(half)
    scaler.scale(weight.sum()).backward()
    apply_update(optimizer, scaler, [weight], learning_rate=0.1, max_grad_norm=1.0)
    assert weight.item() == pytest.approx(0.9)
