"""Every sampler takes the way that diffusers' scheduler of that name takes."""

from __future__ import annotations

import inspect
from itertools import product
from typing import Any, get_args

import diffusers
import pytest
import torch
from torch import Tensor

from contracts.generation import Scheduler
from diffusion.configuration import UnsupportedModel
from diffusion.noise import TrainedNoise
from diffusion.samplers import make_sampler
from tests.diffusion.their_schedulers import their_scheduler

SCHEDULERS: tuple[Scheduler, ...] = get_args(Scheduler)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SD1 = {**SD, "steps_offset": 1, "set_alpha_to_one": False, "skip_prk_steps": True, "clip_sample": False}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd1": SD1,
    "sd2": {**SD1, "prediction_type": "v_prediction"},
    "ddim's own": {**SD, "timestep_spacing": "leading", "steps_offset": 1, "clip_sample": False},
    "bare": {},
    "linspace": {**SD1, "timestep_spacing": "linspace"},
    "trailing": {**SD1, "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
    "zero-snr": {
        **SD1,
        "timestep_spacing": "trailing",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
    },
    "karras": {**SD1, "use_karras_sigmas": True},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False},
    "to the smallest": {**SD1, "final_sigmas_type": "sigma_min"},
    "heun": {**SD1, "solver_type": "heun", "lower_order_final": False},
    "third order": {**SD1, "solver_order": 3},
    "first order": {**SD1, "solver_order": 1},
    "bh1": {**SD1, "solver_type": "bh1", "solver_order": 3},
}
NOT_THEIRS = {("bh1", "dpmsolver++")}
SHAPE = (2, 4, 6, 5)
CLOSE = 2e-4  # of latents of unit variance; a step of a pixel's value is 8e-3


def predict(latents: Tensor, timestep: Tensor) -> Tensor:
    """Neither linear nor the same at all times, as a UNet."""
    mixed = latents.roll(1, dims=2) - 0.5 * latents.roll(1, dims=3)
    return torch.tanh(0.6 * latents + 0.3 * mixed + torch.sin(timestep.float() / 300))


def start() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def drawn_by_theirs(name: Scheduler, config: dict[str, Any], steps: int, first: int) -> tuple[list[float], Tensor]:
    scheduler = their_scheduler(name, config)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps[first:]
    latents = start()
    if first:
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        latents = scheduler.add_noise(latents, start().flip(0), timesteps[:1])
    else:
        latents = latents * scheduler.init_noise_sigma
    random = torch.Generator().manual_seed(1)
    options = {"generator": random} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for timestep in timesteps:
        predicted = predict(scheduler.scale_model_input(latents, timestep), timestep)
        latents = scheduler.step(predicted, timestep, latents, **options, return_dict=False)[0]
    return timesteps.tolist(), latents


def drawn_by_ours(name: Scheduler, config: dict[str, Any], steps: int, first: int) -> tuple[list[float], Tensor]:
    sampler = make_sampler(name, config, steps)
    latents = sampler.noised(start(), start().flip(0), first) if first else start() * sampler.start_scale
    random = torch.Generator().manual_seed(1)
    for place in range(first, len(sampler.timesteps)):
        predicted = predict(sampler.seen(latents, place), sampler.timesteps[place])
        latents = sampler.step(predicted, latents, place, lambda: torch.randn(SHAPE, generator=random))
    return sampler.timesteps[first:].tolist(), latents


@pytest.mark.parametrize(("config", "name"), [pair for pair in product(CONFIGS, SCHEDULERS) if pair not in NOT_THEIRS])
@pytest.mark.parametrize(("steps", "first"), [(5, 0), (20, 0), (31, 0), (8, 3)])
def test_the_same_way_to_the_same_latents(name: Scheduler, config: str, steps: int, first: int) -> None:
    their_timesteps, theirs = drawn_by_theirs(name, CONFIGS[config], steps, first)
    timesteps, ours = drawn_by_ours(name, CONFIGS[config], steps, first)
    assert timesteps == pytest.approx(their_timesteps, abs=1e-2)
    if bool(theirs.isfinite().all()):
        scale = max(1.0, float(theirs.std()))
        assert float((ours - theirs).abs().max()) <= CLOSE * scale


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_are_enough(name: Scheduler, steps: int) -> None:
    """Also where diffusers' pndm fails: it needs four to begin by Runge-Kutta."""
    for config in (SD1, CONFIGS["ddim's own"]):
        assert bool(drawn_by_ours(name, config, steps, 0)[1].isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_latents_keep_their_number_format(dtype: torch.dtype) -> None:
    for name in SCHEDULERS:
        sampler = make_sampler(name, SD1, 4)
        latents = start().to(dtype)
        moved = sampler.step(latents, latents, 0, lambda latents=latents: latents)
        assert moved.dtype == dtype


@pytest.mark.parametrize("name", CONFIGS)
def test_the_trained_noise_is_diffusers(name: str) -> None:
    theirs = diffusers.DDPMScheduler.from_config(CONFIGS[name])
    assert torch.equal(TrainedNoise.from_config(CONFIGS[name]).remaining, theirs.alphas_cumprod)


def test_trained_betas_are_taken_as_they_are() -> None:
    betas = [0.1, 0.2, 0.3]
    theirs = diffusers.DDPMScheduler(num_train_timesteps=3, trained_betas=betas)
    assert torch.equal(TrainedNoise.from_config({"trained_betas": betas}).remaining, theirs.alphas_cumprod)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("prediction_type", "sample"),
        ("beta_schedule", "sigmoid"),
        ("thresholding", True),
        ("use_flow_sigmas", True),
        ("timestep_spacing", "odd"),
    ],
)
def test_settings_that_we_do_not_know_are_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(UnsupportedModel, match=setting.replace("_", "[_ ]")):
        make_sampler("ddim", {**SD1, setting: value}, 5)
