"""A whole training job of each kind: class pictures, captions, several subjects, learned words, an earlier model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from contracts.errors import EmptyDataset, InvalidDatasetInfo, InvalidPreviousModel
from tests.containers.conftest import draw_toy
from tests.containers.training_parts import (
    LORA,
    artifact_of,
    build_job,
    change_info,
    changed_parts,
    draw,
    pipeline,
    run_job,
    weight_digests,
)
from training_container.dreambooth import loop as loop_module
from training_container.platform import Platform
from training_container.train import train


def class_pictures(job: Platform) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in job.checkpoints.glob("class_images-*/*.png")}


def test_class_pictures_are_drawn_once_counted_right_and_seeded(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    options = {"with_prior_preservation": True, "num_class_images": 5, "sample_batch_size": 2, "max_steps": 2}
    job = build_job(tmp_path / "job", tiny_base_model, small_dataset, **options)
    own = job.dataset / "class_data_dir"
    own.mkdir()
    Image.new("RGB", (64, 64), "red").save(own / "own.png")
    (own / ".DS_Store").write_bytes(b"junk")
    train(job)
    first = class_pictures(job)
    assert sorted(first) == [f"class-000{number}.png" for number in range(4)]
    assert len(set(first.values())) == 4
    written = {path: path.stat().st_mtime_ns for path in job.checkpoints.glob("class_images-*/*.png")}
    train(Platform(job.base))
    assert {path: path.stat().st_mtime_ns for path in written} == written

    shutil.rmtree(job.checkpoints)
    train(Platform(job.base))
    assert class_pictures(job) == first


def test_class_pictures_of_earlier_jobs_are_used_and_only_the_others_drawn(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    options = {"with_prior_preservation": True, "num_class_images": 4, "sample_batch_size": 2, "max_steps": 2}
    first = run_job(tmp_path / "first", tiny_base_model, small_dataset, **options)
    [drawn] = first.checkpoints.glob("class_images-*")
    second = build_job(tmp_path / "second", tiny_base_model, small_dataset, **options)
    kept = second.channel(drawn.name)
    kept.mkdir()
    for name in ("class-0000.png", "class-0001.png", "class-0002.png"):
        shutil.copyfile(drawn / name, kept / name)
    train(second)
    assert list(class_pictures(second)) == ["class-0003.png"]
    assert weight_digests(second.model) == weight_digests(first.model)


def test_prior_preservation_changes_what_is_learned_by_its_weight(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    own = shutil.copytree(small_dataset, tmp_path / "with-class")
    shutil.copytree(small_dataset, own / "class_data_dir", ignore=shutil.ignore_patterns("*.json"))
    options = {"with_prior_preservation": True, "num_class_images": 4}
    weights = [
        weight_digests(run_job(tmp_path / str(w), tiny_base_model, own, prior_loss_weight=w, **options).model)[LORA]
        for w in (0.5, 1.0)
    ]
    without = weight_digests(run_job(tmp_path / "without", tiny_base_model, own).model)[LORA]
    assert len({*weights, without}) == 3


def test_captions_and_the_right_prompt_reach_each_photo(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    plain = run_job(tmp_path / "plain", tiny_base_model, small_dataset)
    job = build_job(tmp_path / "captioned", tiny_base_model, small_dataset)
    (job.dataset / "photo-2.txt").write_text("sks toy on a beach")
    train(job)
    assert weight_digests(job.model) != weight_digests(plain.model)


def test_photos_of_several_shapes_are_trained_in_their_shapes(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    real = loop_module.batch_at

    def watch(*arguments: Any) -> Any:
        batch = real(*arguments)
        shapes.append(tuple(batch.moments.shape))
        return batch

    monkeypatch.setattr(loop_module, "batch_at", watch)
    options = {"aspect_buckets": True, "with_prior_preservation": True, "num_class_images": 3, "batch_size": 2}
    job = build_job(tmp_path / "job", tiny_base_model, small_dataset, max_steps=12, **options)
    draw_toy((64, 128), 10).save(job.dataset / "tall.png")
    draw_toy((150, 70), 20).save(job.dataset / "wide.png")
    train(job)
    assert {shape[0] for shape in shapes} == {4}
    assert len({shape[2:] for shape in shapes}) >= 3
    assert artifact_of(job).training.held_out_after < artifact_of(job).training.held_out_before


def test_several_subjects_are_trained_in_one_job(tmp_path: Path, tiny_base_model: Path, small_dataset: Path) -> None:
    cup = {"folder": "cup", "instance_prompt": "a photo of zwx cup", "class_prompt": "a photo of a cup"}
    job = build_job(
        tmp_path / "job", tiny_base_model, small_dataset, with_prior_preservation=True, num_class_images=2, batch_size=2
    )
    change_info(job, concepts=[cup])
    (job.dataset / "cup" / "class_data_dir").mkdir(parents=True)
    draw_toy((64, 64), 90).save(job.dataset / "cup" / "1.png")
    draw_toy((64, 64), 99).save(job.dataset / "cup" / "class_data_dir" / "own.png")
    train(job)
    artifact = artifact_of(job)
    assert [concept.model_dump() for concept in artifact.concepts] == [cup]
    assert len(artifact.training.samples) == 4
    drawn = [sorted(path.name for path in folder.iterdir()) for folder in job.checkpoints.glob("class_images-*")]
    assert sorted(drawn) == [["class-0000.png"], ["class-0000.png", "class-0001.png"]]


def test_a_subject_without_photos_is_named(tmp_path: Path, tiny_base_model: Path, small_dataset: Path) -> None:
    job = build_job(tmp_path / "job", tiny_base_model, small_dataset)
    change_info(job, concepts=[{"folder": "cup", "instance_prompt": "a photo of zwx cup"}])
    with pytest.raises(EmptyDataset, match="cup"):
        train(job)


@pytest.mark.parametrize("options", [{"method": "lora", "lora_rank": 4}, {"method": "full"}])
@pytest.mark.parametrize("with_text", [False, True])
def test_a_training_goes_on_from_an_earlier_model(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path, options: dict[str, object], with_text: bool
) -> None:
    options = {**options, "train_text_encoder": with_text}
    first = run_job(tmp_path / "first", tiny_base_model, small_dataset, **options)
    tier = 4 if with_text else 0  # the last rung, too
    second = build_job(tmp_path / "second", tiny_base_model, small_dataset, max_steps=2, lora_rank=4, memory_tier=tier)
    change_info(second, continue_from="rex")
    shutil.copytree(first.model, second.channel("previous"))
    train(second)
    before, after = artifact_of(first), artifact_of(second)
    assert after.training.held_out_before == pytest.approx(before.training.held_out_after, rel=1e-3)
    assert after.training.held_out_before != pytest.approx(before.training.held_out_before, rel=1e-3)
    assert (after.method, after.hyperparameters.train_text_encoder) == (options["method"], with_text)
    assert weight_digests(second.model).keys() == weight_digests(first.model).keys()


def test_what_does_not_fit_the_earlier_model_is_refused(
    tmp_path: Path, tiny_base_model: Path, tiny_v_base_model: Path, small_dataset: Path, lora_job: Platform
) -> None:
    def going_on(name: str, base: Path = tiny_base_model, **hyperparameters: object) -> Platform:
        job = build_job(tmp_path / name, base, small_dataset, **{"lora_rank": 8, **hyperparameters})
        change_info(job, continue_from="rex")
        return job

    with pytest.raises(InvalidPreviousModel, match="has no channel previous"):
        train(going_on("absent"))
    other_base = going_on("other base", tiny_v_base_model)
    shutil.copytree(lora_job.model, other_base.channel("previous"))
    with pytest.raises(InvalidPreviousModel, match="was trained on tiny, not on tiny-v"):
        train(other_base)
    other_rank = going_on("other rank", lora_rank=16)
    shutil.copytree(lora_job.model, other_rank.channel("previous"))
    with pytest.raises(InvalidPreviousModel, match="lora_rank is 8"):
        train(other_rank)
    damaged = going_on("damaged")
    shutil.copytree(lora_job.model, damaged.channel("previous"))
    (damaged.channel("previous") / LORA).write_bytes(b"damaged")
    with pytest.raises(InvalidPreviousModel, match="is damaged"):
        train(damaged)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_words_of_a_subject_are_learned_first_and_nothing_else_meanwhile(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path, method: str
) -> None:
    options = {"method": method, "textual_inversion_steps": 8, "textual_inversion_learning_rate": 0.05, "max_steps": 1}
    job = run_job(tmp_path / "job", tiny_base_model, small_dataset, **options)
    tokenizer = pipeline(tiny_base_model).tokenizer
    own = tokenizer("sks", add_special_tokens=False).input_ids
    name = "text_model.embeddings.token_embedding.weight"
    before = load_file(tiny_base_model / "text_encoder" / "model.safetensors")
    table = next(tensor for key, tensor in before.items() if name.endswith(key) or key.endswith(name))
    if method == "lora":
        words = load_file(job.model / "learned_words.safetensors")
        assert words["ids"].tolist() == own
        rows = words["rows"]
        assert {path.name for path in job.model.glob("*.safetensors")} == {LORA, "learned_words.safetensors"}
    else:
        assert changed_parts(job.model, tiny_base_model) == {"unet", "text_encoder"}
        after = load_file(job.model / "text_encoder" / "model.safetensors")
        assert {key for key in before if not torch.equal(before[key], after[key])} == {
            key for key in before if key.endswith("token_embedding.weight")
        }
        changed = next(after[key] for key in after if key.endswith("token_embedding.weight"))
        assert (changed != table).any(dim=1).nonzero()[:, 0].tolist() == sorted(own)
        rows = changed[own]
        draw(pipeline(job.model))
    assert not torch.equal(rows, table[own].float())
    training = artifact_of(job).training
    assert training.held_out_after < training.held_out_before

    further = build_job(tmp_path / "further", tiny_base_model, small_dataset, method=method, max_steps=1)
    shutil.copytree(job.model, further.channel("previous"))
    train(further)
    assert artifact_of(further).training.held_out_before == pytest.approx(training.held_out_after, rel=1e-3)
    if method == "lora":
        kept = load_file(further.model / "learned_words.safetensors")
        assert torch.equal(kept["rows"], rows)


def test_a_frozen_text_encoder_is_published_as_precise_as_it_came(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    """Trained with in half precision, but for the words that were learned."""
    file = "text_encoder/model.safetensors"
    options = {"method": "full", "mixed_precision": "bf16", "max_steps": 1}
    first = run_job(tmp_path / "first", tiny_base_model, small_dataset, textual_inversion_steps=1, **options)
    own = pipeline(tiny_base_model).tokenizer("sks", add_special_tokens=False).input_ids
    before, after = load_file(tiny_base_model / file), load_file(first.model / file)
    for name, weight in before.items():
        kept = [row for row in range(len(weight)) if row not in own or "token_embedding" not in name]
        assert torch.equal(after[name][kept], weight[kept]), name
    second = build_job(tmp_path / "second", tiny_base_model, small_dataset, **options)
    shutil.copytree(first.model, second.channel("previous"))
    train(second)
    assert weight_digests(second.model)[file] == weight_digests(first.model)[file]


def test_words_to_learn_need_a_class_prompt(tmp_path: Path, tiny_base_model: Path, small_dataset: Path) -> None:
    job = build_job(tmp_path / "job", tiny_base_model, small_dataset, textual_inversion_steps=1)
    change_info(job, class_prompt=None)
    with pytest.raises(InvalidDatasetInfo, match="class_prompt of every subject"):
        train(job)
