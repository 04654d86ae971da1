"""The memory planner: what fits where, and whether the trace of a step sees what a step keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from contracts.training import HIGHEST_MEMORY_TIER, Hyperparameters, TrainingDefaults
from diffusion.configuration import TextEncoderConfig, UNetConfig
from diffusion.files import read_unet
from diffusion.unet import UNet
from diffusion.verification import verify_base_model
from training_container.base_model import load_base_model
from training_container.dreambooth.draws import StepDraws, generator_for
from training_container.dreambooth.lora import LoraSettings
from training_container.dreambooth.precision import Gpu, Precision, choose_mixed
from training_container.footprint import Footprint, FootprintOf, trace_text_encoder, trace_unet
from training_container.memory import RESERVED, USABLE, estimate_peak, ladder, plan_memory, usable_bytes

GIB = 2**30
T4 = Gpu(15_843_721_216, (7, 5))  # what CUDA reports of 16 GB
A10G = Gpu(23_609_475_072, (8, 6))
NONE = TrainingDefaults()
SD21 = UNetConfig.from_json(
    {
        "sample_size": 64,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    }
)
SD21_TEXT = TextEncoderConfig.from_json(
    {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "vocab_size": 49408,
    }
)


@pytest.fixture(scope="module")
def full() -> Footprint:
    return trace_unet(SD21, 64, 77, torch.float16, None)


@pytest.fixture(scope="module")
def lora() -> Footprint:
    return trace_unet(SD21, 64, 77, torch.float16, LoraSettings(16, 16, "attention"))


@pytest.fixture(scope="module")
def text() -> Footprint:
    return trace_text_encoder(SD21_TEXT, 77, torch.float16, None)


def asked(**values: object) -> Hyperparameters:
    return Hyperparameters.model_validate({"method": "full", "mixed_precision": "fp16", "resolution": 512} | values)


def planned(wanted: Hyperparameters, gpu: Gpu | None, full: Footprint, lora: Footprint, tier: int = 0) -> int:
    return plan_memory(wanted, NONE, tier, gpu, lambda rung: full if rung.method == "full" else lora).rung


def test_the_counts_are_those_of_stable_diffusion(full: Footprint, lora: Footprint, text: Footprint) -> None:
    assert (full.parameters, full.trained) == (865_910_724, 865_910_724)
    assert lora.parameters == 865_910_724
    assert lora.trained < 0.005 * lora.parameters
    assert text.parameters == pytest.approx(340.4e6, rel=0.001)


@pytest.mark.parametrize(
    ("batch", "checkpointing", "eight_bit", "gigabytes"),
    [(1, True, True, 9.92), (2, True, True, 10.4), (1, False, True, 11.17), (2, False, True, 13.67),
     (1, True, False, 15.79)],
)  # fmt: skip
def test_the_estimate_is_what_was_published_for_a_t4(
    full: Footprint, batch: int, checkpointing: bool, eight_bit: bool, gigabytes: float
) -> None:
    """ShivamShrirao/diffusers, examples/dreambooth/README.md: Stable Diffusion 1.x, fp16, prior preservation."""
    wanted = asked(
        batch_size=batch,
        gradient_checkpointing=checkpointing,
        use_8bit_adam=eight_bit,
        with_prior_preservation=True,
    )
    assert estimate_peak(wanted, full) / USABLE + RESERVED == pytest.approx(gigabytes * 1e9, rel=0.05)


def test_prior_preservation_fits_on_a_t4(full: Footprint, lora: Footprint) -> None:
    prior = asked(with_prior_preservation=True)
    rung = planned(prior, T4, full, lora)
    chosen = ladder(prior, NONE)[rung]
    assert chosen.method == "full"
    assert estimate_peak(chosen, full) <= usable_bytes(T4)
    assert estimate_peak(prior, full) > usable_bytes(T4)  # as JumpStart runs it, it does not


def test_more_memory_never_means_a_thriftier_rung(full: Footprint, lora: Footprint) -> None:
    wanted = asked(with_prior_preservation=True, batch_size=4, use_ema=True)
    rungs = [planned(wanted, Gpu(size * GIB, (8, 0)), full, lora) for size in range(10, 81, 5)]
    assert rungs == sorted(rungs, reverse=True)
    assert rungs[0] == len(ladder(wanted, NONE)) - 1  # 10 GB: adapters
    assert rungs[-1] == 0  # 80 GB: as asked


def test_adapters_fit_into_ten_gigabytes_as_asked(full: Footprint, lora: Footprint) -> None:
    assert planned(asked(method="lora", with_prior_preservation=True), Gpu(10 * GIB, (8, 6)), full, lora) == 0


def test_each_tier_is_one_rung_further_and_the_last_stays(full: Footprint, lora: Footprint) -> None:
    wanted = asked(with_prior_preservation=True)
    first = planned(wanted, T4, full, lora)
    last = len(ladder(wanted, NONE)) - 1
    assert [planned(wanted, T4, full, lora, tier) for tier in range(HIGHEST_MEMORY_TIER + 1)] == [
        min(first + tier, last) for tier in range(HIGHEST_MEMORY_TIER + 1)
    ]
    assert [planned(wanted, None, full, lora, tier) for tier in range(HIGHEST_MEMORY_TIER + 1)] == list(range(last + 1))


def test_every_rung_needs_less_and_sees_the_same_pictures_a_step(full: Footprint, lora: Footprint) -> None:
    wanted = asked(batch_size=4, gradient_accumulation_steps=2, learning_rate=2e-6, lora_alpha=32)
    rungs = ladder(wanted, NONE)
    assert rungs[0] == wanted
    peaks = [estimate_peak(rung, full if rung.method == "full" else lora) for rung in rungs]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(peaks)
    assert {rung.total_steps(16) for rung in rungs} == {wanted.total_steps(16)}
    last = rungs[-1]
    assert (last.method, last.lora_rank, last.lora_alpha, last.effective_learning_rate) == ("lora", 8, 16, 1e-4)
    own = TrainingDefaults.model_validate({"lora": {"learning_rate": 1e-3}})
    assert ladder(wanted, own)[-1].effective_learning_rate == 1e-3


def test_text_encoder_ema_prior_and_batch_each_cost_memory(full: Footprint, text: Footprint) -> None:
    least = estimate_peak(asked(), full)
    assert estimate_peak(asked(), full + text) > least + 16 * 340e6 * 0.9
    assert estimate_peak(asked(use_ema=True), full) == least + 4 * full.trained
    assert estimate_peak(asked(batch_size=4), full) > least
    assert estimate_peak(asked(batch_size=2), full) == estimate_peak(asked(with_prior_preservation=True), full)


def test_a_training_that_goes_on_keeps_the_shape_of_its_earlier_model(full: Footprint, lora: Footprint) -> None:
    for wanted in (asked(batch_size=2), asked(method="lora", lora_rank=8, batch_size=2)):
        rungs = ladder(wanted, NONE, goes_on=True)
        assert len(rungs) == len(ladder(wanted, NONE))
        assert {(rung.method, rung.lora_rank) for rung in rungs} == {(wanted.method, wanted.lora_rank)}
        assert rungs[-1] == rungs[-2] != rungs[-3]
    tight = plan_memory(asked(), NONE, 0, Gpu(8 * GIB, (8, 0)), lambda _: full, goes_on=True)
    assert (tight.rung, tight.hyperparameters.method) == (4, "full")


def test_rungs_below_the_one_that_fits_are_not_traced(full: Footprint) -> None:
    traced: list[Hyperparameters] = []

    def trace(rung: Hyperparameters) -> Footprint:
        traced.append(rung)
        return full

    plan = plan_memory(asked(), NONE, 0, Gpu(80 * GIB, (8, 0)), trace)
    assert plan.rung == 0
    assert all(rung == asked() for rung in traced)


def test_data_parallelism_keeps_the_gradients_in_its_buckets(full: Footprint) -> None:
    accumulating = asked(gradient_accumulation_steps=2)
    assert estimate_peak(asked(), full, processes=2) == estimate_peak(accumulating, full)
    assert estimate_peak(accumulating, full, processes=2) == estimate_peak(accumulating, full)
    assert estimate_peak(asked(), full, processes=2) > estimate_peak(asked(), full)


def test_encoding_at_every_step_and_learned_words_cost_memory(tiny_base_model: Path) -> None:
    base = load_base_model(tiny_base_model, verify_base_model(tiny_base_model))
    trace = FootprintOf(base, Precision(torch.device("cpu"), "no"))

    def peak(**values: object) -> float:
        wanted = asked(mixed_precision="no", resolution=64, **values)
        return estimate_peak(wanted, trace(wanted))

    vae = 4 * sum(weight.numel() for weight in base.vae.parameters())
    text = 4 * sum(weight.numel() for weight in base.text_encoder.parameters())
    assert peak(not_cache_latents=True) > peak() + vae
    assert peak(method="lora", textual_inversion_steps=9) > peak(method="lora") + text
    assert peak(textual_inversion_steps=9) == peak()  # a full fine-tune is at its fullest later
    assert peak(train_text_encoder=True, textual_inversion_steps=9) == peak(train_text_encoder=True)


def test_latents_are_kept_again_before_another_kind_of_model_is_trained() -> None:
    rungs = ladder(asked(not_cache_latents=True), NONE)
    assert [rung.not_cache_latents for rung in rungs] == [True, True, True, False, False]


def test_precision_follows_the_gpu() -> None:
    assert [choose_mixed("auto", gpu) for gpu in (None, T4, A10G)] == ["no", "fp16", "bf16"]
    assert choose_mixed("bf16", T4) == "bf16"


def test_the_trace_counts_what_a_real_step_keeps(tiny_base_model: Path) -> None:
    """In fp32, where autocast has no part, the meta device and the CPU keep the same."""
    unet = read_unet(tiny_base_model / "unet").requires_grad_(True)
    side, tokens = 8, 77

    def kept(pictures: int) -> int:
        seen: dict[int, Tensor] = {}
        weights = {weight.untyped_storage().data_ptr() for weight in unet.parameters()}

        def note(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in weights:
                seen[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            unet(
                torch.zeros(pictures, unet.config.in_channels, side, side),
                torch.zeros(pictures, dtype=torch.long),
                torch.zeros(pictures, tokens, unet.config.cross_attention_dim),
            )
        return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())

    traced = trace_unet(unet.config, side, tokens, None, None)
    assert traced.activations == pytest.approx(kept(2) - kept(1), rel=0.05)
    assert traced.activations_checkpointed < 0.5 * traced.activations


@pytest.mark.skipif(not torch.cuda.is_available(), reason="measures a GPU")
def test_the_estimate_holds_on_a_gpu(full: Footprint) -> None:
    unet = UNet(SD21).cuda()
    for weight in unet.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    optimizer = torch.optim.AdamW(unet.parameters(), fused=True)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        with torch.autocast("cuda", torch.float16):
            output = unet(
                torch.randn(1, 4, 64, 64, device="cuda"),
                torch.zeros(1, dtype=torch.long, device="cuda"),
                torch.randn(1, 77, 1024, device="cuda"),
            )
        output.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    measured = torch.cuda.max_memory_allocated()
    assert 0.85 * measured < estimate_peak(asked(), full) < 1.25 * measured


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU can make the host wait")
def test_what_a_step_brings_to_a_gpu_makes_nobody_wait() -> None:
    gpu = torch.device("cuda")
    drawn = StepDraws.of(generator_for(0, "test"), (2, 4, 8, 8), 1000)
    drawn.to(gpu)  # the first call reserves pinned memory
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = drawn.to(gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(there.noise.cpu(), drawn.noise)
