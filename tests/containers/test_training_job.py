"""A whole training job in this process: what it changes, what it leaves, and that a restart is the same run."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import math
import re
import shutil
import sys
import types
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import load_file

from contracts.artifact import BaseModelManifest
from contracts.errors import InvalidBaseModel, InvalidRequest, TrainingDiverged, UnreadableImage
from contracts.progress import TrainingPhase, TrainingProgress
from contracts.training import Hyperparameters, JobHyperparameters, TrainingDefaults
from diffusion.verification import verify_base_model
from tests.containers.conftest import write_manifest
from tests.containers.training_parts import (
    LORA,
    artifact_of,
    build_job,
    changed_parts,
    draw,
    pipeline,
    run_job,
    weight_digests,
)
from training_container import train as train_module
from training_container.base_model import load_base_model
from training_container.dreambooth import attention as attention_module
from training_container.dreambooth import loop as loop_module
from training_container.dreambooth.inversion import learnable_rows
from training_container.dreambooth.loop import Learner
from training_container.dreambooth.precision import Precision
from training_container.dreambooth.trainable import make_trainable
from training_container.failures import as_training_failure
from training_container.platform import Platform
from training_container.settings import read_settings
from training_container.train import train


def test_lora_training_lowers_the_held_out_loss(lora_job: Platform) -> None:
    training = artifact_of(lora_job).training
    assert training.held_out_after < training.held_out_before
    assert training.steps == 24


def test_lora_leaves_the_base_model_as_it_was(lora_job: Platform, tiny_base_model: Path) -> None:
    verify_base_model(tiny_base_model)
    assert [path.name for path in lora_job.model.glob("*.safetensors")] == [LORA]


def test_lora_weights_load_with_their_scale_and_change_the_picture(lora_job: Platform, tiny_base_model: Path) -> None:
    pipe = pipeline(tiny_base_model)
    plain = draw(pipe)
    pipe.load_lora_weights(lora_job.model)
    config = pipe.unet.peft_config["default_0"]
    assert (config.r, config.lora_alpha) == (8, 2)
    assert draw(pipe).tobytes() != plain.tobytes()
    names = load_file(lora_job.model / LORA)
    assert all(name.startswith("unet.") and "lora" in name for name in names)


def test_the_artifact_describes_every_file_and_is_written_last(
    lora_job: Platform, imported_base_model: BaseModelManifest
) -> None:
    artifact = artifact_of(lora_job)
    on_disk = {p.relative_to(lora_job.model).as_posix() for p in lora_job.model.rglob("*") if p.is_file()}
    assert {entry.path for entry in artifact.files} == on_disk - {"artifact.json"}
    for entry in artifact.files:
        content = (lora_job.model / entry.path).read_bytes()
        assert (entry.size, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert artifact.base_model_checksum == imported_base_model.checksum
    assert (artifact.resolution, artifact.hyperparameters.mixed_precision) == (64, "no")
    assert all(check.finite and check.contrast > 0 for check in artifact.training.samples)
    assert len(artifact.training.samples) == 2
    newest = max(lora_job.model.rglob("*.*"), key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == "artifact.json"


def test_a_full_fine_tune_changes_the_unet_and_nothing_else(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    job = run_job(tmp_path / "job", tiny_base_model, small_dataset, method="full", max_steps=12)
    assert changed_parts(job.model, tiny_base_model) == {"unet"}
    training = artifact_of(job).training
    assert training.held_out_after < training.held_out_before
    assert draw(pipeline(job.model)).tobytes() != draw(pipeline(tiny_base_model)).tobytes()


def test_a_full_fine_tune_changes_the_text_encoder_only_when_asked(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    options = {"method": "full", "train_text_encoder": True, "gradient_checkpointing": True, "max_steps": 2}
    job = run_job(tmp_path / "job", tiny_base_model, small_dataset, **options)
    assert changed_parts(job.model, tiny_base_model) == {"unet", "text_encoder"}
    draw(pipeline(job.model))


def test_lora_of_the_text_encoder_loads_again(tmp_path: Path, tiny_base_model: Path, small_dataset: Path) -> None:
    job = run_job(tmp_path / "job", tiny_base_model, small_dataset, train_text_encoder=True)
    weights = load_file(job.model / LORA)
    trained = [tensor for name, tensor in weights.items() if name.startswith("text_encoder.") and ".lora_B." in name]
    assert trained and all(tensor.abs().max() > 0 for tensor in trained)
    pipe = pipeline(tiny_base_model)
    plain = pipe.encode_prompt("a toy", "cpu", 1, False)[0]
    pipe.load_lora_weights(job.model)
    assert not torch.equal(pipe.encode_prompt("a toy", "cpu", 1, False)[0], plain)


def test_the_published_weights_are_the_average_when_one_is_kept(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    options = {"method": "full", "max_steps": 4, "learning_rate": 1e-3}
    plain = run_job(tmp_path / "plain", tiny_base_model, small_dataset, **options)
    averaged = run_job(tmp_path / "averaged", tiny_base_model, small_dataset, use_ema=True, **options)
    name = "unet/diffusion_pytorch_model.safetensors"
    before, last, mean = (load_file(root / name) for root in (tiny_base_model, plain.model, averaged.model))
    moved = [(last[key] - before[key]).norm() for key in before]
    behind = [(last[key] - mean[key]).norm() for key in before]
    assert 0 < sum(behind) < sum(moved)


@pytest.mark.parametrize("targets", ["attention", "all"])
@pytest.mark.parametrize("with_text", [False, True])
def test_every_adapter_that_is_trained_is_saved_loaded_and_used(
    tmp_path: Path,
    tiny_base_model: Path,
    small_dataset: Path,
    targets: str,
    with_text: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[Learner] = []
    real = train_module.prepare_learner
    monkeypatch.setattr(train_module, "prepare_learner", lambda *a: trained.append(real(*a)) or trained[0])
    options = {"lora_targets": targets, "train_text_encoder": with_text}
    job = run_job(tmp_path / "job", tiny_base_model, small_dataset, **options)
    pipe = pipeline(tiny_base_model)
    pipe.load_lora_weights(job.model)
    networks = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    loaded = {
        f"{network}.{name.replace('.default_0.', '.')}": weight
        for network, module in networks.items()
        for name, weight in module.named_parameters()
        if ".lora_" in name
    }
    expected = trained[0].model.parameters
    assert loaded.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(loaded[name], weight.detach()), name
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in expected}
    assert ({"conv1", "conv_in", "proj_in"} <= layers) is (targets == "all")
    assert {"to_q", "to_k", "to_v"} <= layers


@pytest.mark.parametrize("mixed_precision", ["bf16", "fp16"])
def test_trained_weights_are_fp32_in_every_precision(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path, mixed_precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Learner] = []
    real = train_module.prepare_learner
    monkeypatch.setattr(train_module, "prepare_learner", lambda *a: seen.append(real(*a)) or seen[0])
    run_job(tmp_path / "job", tiny_base_model, small_dataset, mixed_precision=mixed_precision)
    (learner,) = seen
    assert {weight.dtype for weight in learner.model.parameters.values()} == {torch.float32}
    frozen = {weight.dtype for weight in learner.model.unet.parameters() if not weight.requires_grad}
    assert frozen == {torch.bfloat16 if mixed_precision == "bf16" else torch.float16}


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("with_text", [False, True])
def test_exactly_the_asked_weights_are_trainable(tiny_base_model: Path, method: str, with_text: bool) -> None:
    base = load_base_model(tiny_base_model, verify_base_model(tiny_base_model))
    settings = JobHyperparameters.from_sagemaker({"method": method, "train_text_encoder": str(with_text)}).training
    cpu = Precision(torch.device("cpu"), "no")
    names = make_trainable(base.unet, base.text_encoder, settings, cpu).parameters
    assert {name.split(".")[0] for name in names} == ({"unet", "text_encoder"} if with_text else {"unet"})
    assert all("lora" in name for name in names) == (method == "lora")
    assert not any(weight.requires_grad for weight in base.vae.parameters())
    assert any(weight.requires_grad for weight in base.text_encoder.parameters()) == with_text


@pytest.mark.parametrize("with_text", [False, True])
def test_data_parallelism_sees_the_trained_networks_alone(tiny_base_model: Path, with_text: bool) -> None:
    """A frozen text encoder lies elsewhere, and DistributedDataParallel refuses networks on several kinds of device."""
    base = load_base_model(tiny_base_model, verify_base_model(tiny_base_model))
    wanted = Hyperparameters(train_text_encoder=with_text)
    model = make_trainable(base.unet, base.text_encoder, wanted, Precision(torch.device("cpu"), "no"))
    parts = {field.name: None for field in dataclasses.fields(Learner)}
    learner = Learner(**cast(Any, {**parts, "model": model}))
    networks = [*loop_module._DifferentiableLoss(learner).networks]
    assert networks == ([base.unet, base.text_encoder] if with_text else [base.unet])
    with learnable_rows(base.text_encoder, [5], model.parameters.values()):
        assert [*loop_module._DifferentiableLoss(learner).networks] == [base.text_encoder]


def test_a_v_prediction_model_is_trained_to_predict_velocity(
    tmp_path: Path, tiny_v_base_model: Path, small_dataset: Path
) -> None:
    job = run_job(tmp_path / "job", tiny_v_base_model, small_dataset, method="full", max_steps=12)
    training = artifact_of(job).training
    assert training.held_out_after < training.held_out_before


def test_the_same_seed_gives_the_same_weights_whatever_the_order_of_the_files(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path, lora_job: Platform
) -> None:
    reversed_order = tmp_path / "reversed"
    reversed_order.mkdir()
    for path in sorted(small_dataset.iterdir(), reverse=True):
        shutil.copyfile(path, reversed_order / path.name)
    options = {"max_steps": 24, "lora_rank": 8, "lora_alpha": 2}
    torch.manual_seed(12345)  # the seed of the job counts, not the state of the process
    same = run_job(tmp_path / "same", tiny_base_model, reversed_order, **options)
    other = run_job(tmp_path / "other", tiny_base_model, small_dataset, seed=1, **options)
    assert weight_digests(same.model) == weight_digests(lora_job.model)
    assert weight_digests(other.model) != weight_digests(lora_job.model)


def test_progress_is_valid_and_only_moves_forward(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TrainingProgress] = []
    real = Platform.report_progress

    def report(self: Platform, phase: TrainingPhase, step: int, total_steps: int, **rest: float) -> None:
        real(self, phase, step, total_steps, **rest)
        seen.append(TrainingProgress.model_validate_json((self.checkpoints / "progress.json").read_bytes()))

    monkeypatch.setattr(Platform, "report_progress", report)
    options = {"with_prior_preservation": True, "num_class_images": 2}
    run_job(tmp_path / "job", tiny_base_model, small_dataset, **options)
    phases = list(dict.fromkeys(progress.phase for progress in seen))
    assert phases == ["loading", "class_images", "encoding", "training", "sampling", "saving", "done"]
    assert [p.step for p in seen] == sorted(p.step for p in seen)
    assert (seen[-1].step, seen[-1].total_steps) == (6, 6)
    assert seen[-1].loss is not None


def test_progress_is_written_at_most_once_a_second_within_a_phase(tmp_path: Path) -> None:
    platform = Platform(tmp_path)
    for step in range(50):
        platform.report_progress("training", step, 50, loss=1.0, seconds_per_step=0.5)
    written = TrainingProgress.model_validate_json((platform.checkpoints / "progress.json").read_bytes())
    assert (written.step, written.eta_seconds) == (0, 25.0)
    assert [path.name for path in platform.checkpoints.iterdir()] == ["progress.json"]


def test_a_loss_that_stays_infinite_stops_the_job(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = train_module.prepare_learner
    monkeypatch.setattr(
        train_module, "prepare_learner", lambda *a: dataclasses.replace(real(*a), scaling_factor=math.inf)
    )
    with pytest.raises(TrainingDiverged, match="steps 1 and 2"):
        run_job(tmp_path / "job", tiny_base_model, small_dataset)


def test_a_gradient_that_stays_infinite_under_finite_losses_stops_the_job(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every update is skipped, and the job leaves the base model as it was."""
    real = loop_module.apply_update

    def poisoned(optimizer: Any, scaler: Any, weights: list[torch.nn.Parameter], **rest: float) -> torch.Tensor:
        for weight in weights:
            weight.grad = torch.full_like(weight, math.inf)
        return real(optimizer, scaler, weights, **rest)

    monkeypatch.setattr(loop_module, "apply_update", poisoned)
    with pytest.raises(TrainingDiverged, match="from 1 to 20 changed the model"):
        run_job(tmp_path / "job", tiny_base_model, small_dataset, max_steps=30)


def test_bad_photos_are_found_before_the_model_is_loaded(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = build_job(tmp_path / "job", tiny_base_model, small_dataset)
    (job.dataset / "photo-9.png").write_text("text")
    monkeypatch.delattr(train_module, "load_base_model")
    with pytest.raises(UnreadableImage, match=r"photo-9\.png"):
        train(job)


def test_what_neither_dataset_nor_job_sets_is_the_base_models(tmp_path: Path, tiny_base_model: Path) -> None:
    defaults = {"lora": {"learning_rate": 0.005, "max_steps": 3, "with_prior_preservation": True}}
    manifest = verify_base_model(tiny_base_model).model_copy(
        update={"training_defaults": TrainingDefaults.model_validate(defaults)}
    )
    base = load_base_model(tiny_base_model, manifest)

    def settled(info: dict[str, object], **job: str) -> Hyperparameters:
        (tmp_path / "dataset_info.json").write_text(json.dumps({"instance_prompt": "a photo of sks toy", **info}))
        chosen = train_module.settle(read_settings(tmp_path, job), manifest)
        return train_module.fit_into_memory(chosen, base)[0].hyperparameters

    plain = settled({})
    assert (plain.learning_rate, plain.max_steps, plain.resolution) == (0.005, 3, 64)
    assert plain.with_prior_preservation is False  # there is no class prompt
    assert settled({"class_prompt": "a photo of a toy"}).with_prior_preservation is True
    assert settled({"hyperparameters": {"max_steps": 7}}, learning_rate='"1e-4"').max_steps == 7
    assert settled({}, learning_rate='"1e-4"').learning_rate == 1e-4
    assert settled({}, epochs="20").total_steps(2) == 40
    assert settled({}, method="full").learning_rate == 2e-6
    assert settled({}, method="full", memory_tier="4").learning_rate == 0.005


@pytest.mark.parametrize("damage", ["flipped", "missing", "no manifest", "unloadable"])
def test_a_corrupt_base_model_is_refused(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path, damage: str
) -> None:
    model = shutil.copytree(tiny_base_model, tmp_path / "model")
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    if damage == "flipped":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif damage == "missing":
        weights.unlink()
    elif damage == "no manifest":
        (model / "manifest.json").unlink()
    else:
        weights.write_bytes(b"not weights")
        write_manifest(model)
    job = build_job(tmp_path / "job", model, small_dataset)
    with pytest.raises(InvalidBaseModel):
        train(job)


def test_out_of_memory_in_the_loop_is_called_by_its_name(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(self: Learner, step: int, learning_rate: float) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Learner, "optimise", exhaust)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        run_job(tmp_path / "job", tiny_base_model, small_dataset)
    assert as_training_failure(caught.value).code == "out_of_memory"


def test_a_full_disk_has_a_name_of_its_own() -> None:
    assert as_training_failure(OSError(errno.ENOSPC, "No space left on device")).code == "out_of_disk"
    assert as_training_failure(RuntimeError("I/O error: No space left on device (os error 28)")).code == "out_of_disk"
    assert as_training_failure(OSError(errno.EACCES, "Permission denied")).code == "training_crashed"


def test_a_real_allocation_that_fails_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.uint8)
    assert as_training_failure(caught.value).code == "out_of_memory"
    assert as_training_failure(MemoryError()).code == "out_of_memory"


def test_anything_else_is_a_crash_with_its_type_and_message() -> None:
    failure = as_training_failure(KeyError("weight"))
    assert failure.code == "training_crashed"
    assert "KeyError: 'weight'" in str(failure)


def test_accumulating_two_passes_is_the_mean_of_their_gradients(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pass k of step 0 is put in as the only pass of its own run, and the gradients are compared before the update."""
    captured: list[torch.Tensor] = []

    def capture(optimizer: object, scaler: object, weights: list[torch.nn.Parameter], **_: object) -> torch.Tensor:
        captured.append(torch.cat([w.grad.flatten().clone() for w in weights if w.grad is not None]))
        for weight in weights:
            weight.grad = None
        return torch.zeros(())

    real = loop_module.batch_at
    monkeypatch.setattr(loop_module, "apply_update", capture)
    run_job(tmp_path / "both", tiny_base_model, small_dataset, max_steps=1, gradient_accumulation_steps=2)
    two = Hyperparameters(gradient_accumulation_steps=2)
    for micro in (0, 1):
        monkeypatch.setattr(loop_module, "batch_at", lambda data, _s, _t, _m, n, _x, k=micro: real(data, two, 0, k, n))
        run_job(tmp_path / f"only-{micro}", tiny_base_model, small_dataset, max_steps=1)
    both, first, second = captured
    torch.testing.assert_close(both, (first + second) / 2, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(first, second)


def test_the_metric_line_is_fixed_point(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_job(tmp_path / "job", tiny_base_model, small_dataset, learning_rate="2e-6")
    lines = [line for line in capsys.readouterr().out.splitlines() if "train_avg_loss" in line]
    found = re.search(r"train_avg_loss=([0-9\.]+)", lines[-1])
    assert found and re.fullmatch(r"\d+\.\d{6}", found[1])
    assert lines[-1].startswith("step 6/6 ")
    assert "lr=0.000002000" in lines[-1]


def test_sixteen_bit_base_weights_stay_sixteen_bit(tmp_path: Path, tiny_base_model: Path, small_dataset: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_base_model, torch_dtype=torch.float16)
    pipe.save_pretrained(tmp_path / "half")
    write_manifest(tmp_path / "half")
    job = run_job(tmp_path / "job", tmp_path / "half", small_dataset, method="full", max_steps=2)
    weights = load_file(job.model / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert json.loads((job.model / "artifact.json").read_text())["method"] == "full"


@pytest.mark.parametrize("method", ["lora", "full"])
def test_encoding_at_every_step_gives_the_same_run_as_encoding_once(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path, method: str
) -> None:
    """Of crops that are the same, since the photos are cut in the middle."""
    options = {"method": method, "center_crop": True, "with_prior_preservation": True, "num_class_images": 2}
    jobs = [
        run_job(tmp_path / str(anew), tiny_base_model, small_dataset, not_cache_latents=anew, **options)
        for anew in (False, True)
    ]
    assert weight_digests(jobs[0].model) == weight_digests(jobs[1].model)


def test_xformers_is_refused_where_it_does_not_work(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidRequest, match="xformers cannot be imported"):
        run_job(tmp_path / "absent", tiny_base_model, small_dataset, attention="xformers")
    ops = types.ModuleType("xformers.ops")
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    ops.memory_efficient_attention = lambda q, k, v: (q * 0 + v).detach() + q  # type: ignore[attr-defined]
    with pytest.raises(InvalidRequest, match="other gradients"):
        run_job(tmp_path / "wrong", tiny_base_model, small_dataset, attention="xformers")
    run_job(tmp_path / "own", tiny_base_model, small_dataset, attention="sdpa", max_steps=1)


def test_the_trial_of_xformers_accepts_a_kernel_that_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def right(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * query.shape[-1] ** -0.5
        return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value)

    ops = types.ModuleType("xformers.ops")
    ops.memory_efficient_attention = right  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    for precision in (Precision(torch.device("cpu"), "no"), Precision(torch.device("cpu"), "bf16")):
        attention_module._try_xformers(precision)


def test_a_warmup_that_outlasts_the_training_trains_nothing_and_is_refused(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    options = {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 7}
    with pytest.raises(InvalidRequest, match=r"lr_warmup_steps: 7 .* 6 steps .*max_steps"):
        run_job(tmp_path / "job", tiny_base_model, small_dataset, **options)
