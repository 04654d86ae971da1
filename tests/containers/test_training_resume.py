"""A job that was stopped and started again is the same run, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from contracts.errors import TrainingStopped
from tests.containers.training_parts import artifact_of, build_job, change_info, run_job, weight_digests
from training_container.dreambooth.loop import Learner
from training_container.platform import Platform
from training_container.train import train


def stop_after(platform: Platform, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets the stop flag, as SIGTERM does, in the middle of the step after `steps`."""
    real = Learner.optimise

    def optimise(self: Learner, step: int, learning_rate: float) -> torch.Tensor:
        platform.stop_requested = step >= steps
        return real(self, step, learning_rate)

    monkeypatch.setattr(Learner, "optimise", optimise)


RESUMED = {
    "lora": {"lr_scheduler": "cosine", "gradient_accumulation_steps": 2},
    "full": {"method": "full", "train_text_encoder": True, "lr_scheduler": "linear", "lr_warmup_steps": 3},
    "fp16": {"mixed_precision": "fp16", "batch_size": 2},
    "average": {"use_ema": True, "snr_gamma": 5, "noise_offset": 0.1, "random_flip": True},
    "words": {"textual_inversion_steps": 2, "use_ema": True},
    "words-full": {"method": "full", "train_text_encoder": True, "textual_inversion_steps": 2, "use_ema": True},
    "prior": {"with_prior_preservation": True, "num_class_images": 3, "sample_batch_size": 2},
}


@pytest.mark.parametrize("options", RESUMED.values(), ids=RESUMED.keys())
def test_a_restart_ends_in_the_very_same_weights(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path, options: dict[str, object]
) -> None:
    whole = run_job(tmp_path / "whole", tiny_base_model, small_dataset, **options)
    job = build_job(tmp_path / "stopped", tiny_base_model, small_dataset, **options)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(job, 2, patch)
        with pytest.raises(TrainingStopped, match="step 3 of 6"):
            train(job)
    assert [path.name for path in job.checkpoints.glob("checkpoint-*")] == ["checkpoint-00000003"]
    restarted = Platform(job.base)
    train(restarted)
    assert weight_digests(restarted.model) == weight_digests(whole.model)
    assert artifact_of(restarted).training.held_out_before == artifact_of(whole).training.held_out_before
    assert artifact_of(restarted).training.first_loss == artifact_of(whole).training.first_loss


def test_a_restart_goes_on_with_the_words_that_it_was_learning(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    options = {"textual_inversion_steps": 6, "max_steps": 2}
    whole = run_job(tmp_path / "whole", tiny_base_model, small_dataset, **options)
    job = build_job(tmp_path / "stopped", tiny_base_model, small_dataset, **options)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(job, 2, patch)
        with pytest.raises(TrainingStopped, match="step 3 of 6"):
            train(job)
    assert [path.name for path in job.checkpoints.glob("textual_inversion/*")] == ["checkpoint-00000003"]
    restarted = Platform(job.base)
    train(restarted)
    assert weight_digests(restarted.model) == weight_digests(whole.model)


def test_checkpoints_are_safetensors_and_json_and_only_the_newest_stays(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    job = run_job(tmp_path / "job", tiny_base_model, small_dataset, save_steps=2)
    (checkpoint,) = job.checkpoints.glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-00000004"
    assert sorted(p.name for p in checkpoint.iterdir()) == [
        "optimizer.safetensors",
        "state.json",
        "weights.safetensors",
    ]


def test_a_checkpoint_that_is_damaged_or_of_another_run_is_not_continued(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    clean = run_job(tmp_path / "clean", tiny_base_model, small_dataset)
    job = run_job(tmp_path / "job", tiny_base_model, small_dataset, save_steps=2)
    weights = job.checkpoints / "checkpoint-00000004" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    (job.checkpoints / "checkpoint-00000005").mkdir()
    train(Platform(job.base))
    assert weight_digests(job.model) == weight_digests(clean.model)

    change_info(job, instance_prompt="a photo of zwx toy")
    expected = build_job(tmp_path / "expected", tiny_base_model, small_dataset)
    change_info(expected, instance_prompt="a photo of zwx toy")
    train(expected)
    train(Platform(job.base))
    assert weight_digests(job.model) == weight_digests(expected.model)
