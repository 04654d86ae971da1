"""Subjects: kept, told apart, replaced and deleted; none leaks into another or into the base model."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from botocore.exceptions import ClientError
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from contracts.artifact import ARTIFACT, LEARNED_WORDS, LORA_WEIGHTS, FileEntry, PromotedVersion
from contracts.errors import HostingFailed, InvalidBaseModel, UnknownSubject
from contracts.storage import MANIFEST, promoted_key, version_manifest_key
from inference_container import subject_models
from inference_container.generator import Generator
from inference_container.networks import load_base_model
from inference_container.subject_models import MemoryLimits, Share, SubjectModels
from inference_container.subjects import SubjectStore
from tests.containers.generators import CPU, DOG, ROOMY, VERSION, draw, make_generator, picture
from tests.containers.inference_parts import BUCKET, describe_files, publish, version_manifest
from tests.diffusion.their_schedulers import their_scheduler


def test_subjects_differ_and_never_leak_into_each_other_or_the_base_model(
    generator: Generator, tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path
) -> None:
    base = picture(make_generator(tiny_base_model, s3, tmp_path / "cache"))
    fresh = {name: picture(make_generator(tiny_base_model, s3, tmp_path / name), subject=name) for name in published}
    assert len({pixels.tobytes() for pixels in [base, *fresh.values()]}) == 1 + len(published)
    for name in ["rex", "mia", "tom", "pip", "mia", None, "pip", None, "rex", "tom", None]:
        expected = base if name is None else fresh[name]
        drawn = picture(generator, **({} if name is None else {"subject": name}))
        assert np.array_equal(drawn, expected), name


def publish_words(
    base: Path, s3: Any, folder: Path, subject: str, ids: list[int], rows: torch.Tensor, published: dict[str, Path]
) -> None:
    """The adapter of rex, with words of its own."""
    shutil.copytree(published["rex"], folder)
    save_file({"ids": torch.tensor(ids), "rows": rows}, folder / LEARNED_WORDS)
    publish(s3, version_manifest(base, subject, VERSION, describe_files(folder)), folder)


def test_learned_words_are_spoken_for_their_subject_alone(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base_model, safety_checker=None)
    ids = pipeline.tokenizer(DOG, add_special_tokens=False).input_ids[-2:]
    width = pipeline.text_encoder.config.hidden_size
    for subject, scale in (("zoe", 1.0), ("zac", -1.0)):
        rows = torch.full((len(ids), width), scale) * torch.linspace(-1, 1, width)
        publish_words(tiny_base_model, s3, tmp_path / subject, subject, ids, rows, published)
    names: list[str | None] = ["rex", "pip", "zoe", "zac", None]
    expected = {
        name: picture(
            make_generator(tiny_base_model, s3, tmp_path / f"cache-{name}"), **({"subject": name} if name else {})
        )
        for name in names
    }
    assert len({pixels.tobytes() for pixels in expected.values()}) == len(names)
    generator = make_generator(tiny_base_model, s3, tmp_path / "cache")
    for name in [*names, "zoe", "rex", "zac", "zoe", None, "zac", "pip", "zoe"]:
        drawn = picture(generator, **({"subject": name} if name else {}))
        assert np.array_equal(drawn, expected[name]), name

    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(published["rex"], weight_name=LORA_WEIGHTS)
    with torch.no_grad():
        pipeline.text_encoder.get_input_embeddings().weight[ids] = torch.linspace(-1, 1, width)
    pipeline.scheduler = their_scheduler("ddim", pipeline.scheduler.config)
    theirs = pipeline(
        DOG, num_inference_steps=3, generator=torch.Generator("cpu").manual_seed(7), output_type="np"
    ).images[0]
    assert np.abs(picture(generator, subject="zoe", scheduler="ddim") / 255 - theirs).max() <= 2 / 255
    assert np.array_equal(picture(generator, subject="zoe", lora_scale=0), expected[None])


def test_words_that_do_not_fit_the_text_encoder_are_refused(
    generator: Generator, tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path
) -> None:
    for subject, ids, width in (("far", [10**9], 32), ("wide", [1], 7), ("odd", [-1], 32)):
        rows = torch.zeros(1, width)
        publish_words(tiny_base_model, s3, tmp_path / subject, subject, ids, rows, published)
        with pytest.raises(HostingFailed, match="does not fit"):
            draw(generator, subject=subject)
    before = picture(generator)
    assert np.array_equal(picture(generator), before)


def promote(s3: Any, subject: str, version: str) -> None:
    promoted = PromotedVersion(version=version, taken_at=datetime(2026, 1, 1, tzinfo=UTC))
    s3.put_object(Bucket=BUCKET, Key=promoted_key(subject), Body=promoted.model_dump_json().encode())


def test_the_promoted_version_is_drawn_when_none_is_named_and_a_new_one_at_once(
    generator: Generator, tiny_base_model: Path, published: dict[str, Path], s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject_models, "SECONDS_PROMOTED", 0.0)
    other = "ba9876543210-2"
    publish(s3, version_manifest(tiny_base_model, "rex", other, describe_files(published["tom"])), published["tom"])
    for version, looks_like in ((VERSION, "rex"), (other, "tom"), (VERSION, "rex")):
        promote(s3, "rex", version)
        drawn = draw(generator, subject="rex", version=None)
        assert np.array_equal(drawn.pictures[0], picture(generator, subject=looks_like))
        assert drawn.origins[0]["subjects"] == [f"rex@{version}"]
    with pytest.raises(UnknownSubject, match="tom"):
        draw(generator, subject="tom", version=None)


def test_a_deleted_subject_leaves_memory_and_disk(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = make_generator(tiny_base_model, s3, tmp_path)
    for name in ("ann", "ben"):
        publish(
            s3, version_manifest(tiny_base_model, name, VERSION, describe_files(published["rex"])), published["rex"]
        )
        draw(generator, subject=name)
    for name in ("ann", "ben"):
        s3.delete_object(Bucket=BUCKET, Key=version_manifest_key(name, VERSION))
    monkeypatch.setattr(subject_models, "SECONDS_BETWEEN_CHECKS", 0.0)
    assert list(generator._embedded)
    with pytest.raises(UnknownSubject, match="ann"):
        draw(generator, subject="ann")
    assert list(generator._embedded) == []  # what its text encoder made of prompts
    assert [path.name for path in tmp_path.iterdir()] == [f"ben_{VERSION}"]
    draw(generator, subject="rex")
    generator.drop_deleted()
    assert [path.name for path in tmp_path.iterdir()] == [f"rex_{VERSION}"]
    assert draw(generator, subject="rex").load_ms == 0
    with pytest.raises(UnknownSubject, match="ben"):
        draw(generator, subject="ben")


def test_a_warm_subject_is_drawn_while_the_bucket_is_silent(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = make_generator(tiny_base_model, s3, tmp_path)._models
    promote(s3, "rex", VERSION)
    promote(s3, "tom", VERSION)
    models.select([Share("rex", None, 1.0)])
    asked: list[str] = []

    def silent(*_: Any, **named: str) -> None:
        asked.append(named["Key"])
        raise ClientError({"Error": {"Code": "SlowDown", "Message": "Please reduce your request rate."}}, "GetObject")

    with monkeypatch.context() as outage:
        for operation in ("get_object", "head_object"):
            outage.setattr(s3, operation, silent)
        assert models.select([Share("rex", None, 1.0)]).load_ms == 0
        assert asked == []  # read a moment ago
        outage.setattr(subject_models, "SECONDS_BETWEEN_CHECKS", 0.0)
        models._latest["rex"] = (VERSION, time.monotonic() - 60)
        assert models.select([Share("rex", None, 1.0)]).drawn == (f"rex@{VERSION}",)
        assert len(asked) == 2
        with pytest.raises(HostingFailed, match="tom"):
            models.select([Share("tom", None, 1.0)])
    assert models.select([Share("tom", None, 1.0)]).drawn == (f"tom@{VERSION}",)


def test_deleted_subjects_are_looked_for_a_few_at_a_time_and_without_reading_manifests(
    tiny_base_model: Path, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject_models, "MOST_CHECKED_AT_ONCE", 2)
    monkeypatch.setattr(s3, "get_object", None)
    generator = make_generator(tiny_base_model, s3, tmp_path)
    for number in range(5):
        s3.put_object(Bucket=BUCKET, Key=version_manifest_key(f"s{number}", VERSION), Body=b"{}")
        (tmp_path / f"s{number}_{VERSION}").mkdir()
    s3.delete_object(Bucket=BUCKET, Key=version_manifest_key("s4", VERSION))
    looked_for: list[str] = []
    real = SubjectStore.exists

    def exists(store: SubjectStore, subject: str, version: str) -> bool:
        looked_for.append(subject)
        return real(store, subject, version)

    monkeypatch.setattr(SubjectStore, "exists", exists)
    rounds = []
    for _ in range(4):
        generator.drop_deleted()
        rounds.append(sorted(looked_for))
        looked_for.clear()
    assert rounds == [["s0", "s1"], ["s2", "s3"], ["s4"], ["s0", "s1"]]
    assert sorted(generator._models._store.kept()) == [f"s{number}_{VERSION}" for number in range(4)]  # type: ignore[union-attr]


@pytest.mark.parametrize("subject", ["mia", "pip"])
def test_a_dedicated_container_draws_its_only_subject(
    generator: Generator, tiny_base_model: Path, published: dict[str, Path], tmp_path: Path, subject: str
) -> None:
    own = tmp_path / "own"
    shutil.copytree(published[subject], own)
    artifact = version_manifest(tiny_base_model, subject, VERSION, describe_files(published[subject])).artifact
    (own / ARTIFACT).write_text(artifact.model_dump_json())
    dedicated = Generator(SubjectModels(load_base_model(tiny_base_model, CPU), None, ROOMY, own), 1)
    assert np.array_equal(picture(dedicated), picture(generator, subject=subject))
    base = load_base_model(tiny_base_model, CPU)
    named = Generator(SubjectModels(base, None, ROOMY, own, f"{subject}@{VERSION}"), 1)
    scale = {"lora_scale": 0.5} if subject == "mia" else {}
    half = draw(generator, subject=subject, **scale)
    for asked in ({}, {"subject": subject}, {"subject": subject, "version": "0" * 12 + "-1"}):
        drawn = draw(named, **asked, **scale)
        assert np.array_equal(drawn.pictures[0], half.pictures[0])
        assert drawn.subjects == (f"{subject}@{VERSION}",)
        assert drawn.origins[0]["subjects"] == [f"{subject}@{VERSION}"]
    with pytest.raises(UnknownSubject, match=f"draws {subject} only"):
        draw(named, subject="rex")
    stray = own / ("learned_words.safetensors" if subject == "mia" else "text_encoder/model.safetensors.index.json")
    stray.parent.mkdir(exist_ok=True)
    stray.write_text("{}")
    with pytest.raises(HostingFailed, match=stray.name):
        SubjectModels(base, None, ROOMY, own)
    stray.unlink()
    SubjectModels(base, None, ROOMY, own)
    weights = next(own.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(HostingFailed, match=weights.name):
        SubjectModels(base, None, ROOMY, own)


def test_a_subject_is_loaded_once_and_then_warm(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path
) -> None:
    generator = make_generator(tiny_base_model, s3, tmp_path)
    assert draw(generator, subject="rex").load_ms > 0
    assert draw(generator, subject="rex").load_ms == 0


def test_memory_keeps_the_latest_subjects_and_evicts_the_oldest(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path
) -> None:
    generator = make_generator(
        tiny_base_model, s3, tmp_path, MemoryLimits(subjects=2, device_bytes=10**9, memory_bytes=10**9)
    )
    base = picture(generator)
    loads = [draw(generator, subject=name).load_ms > 0 for name in ["rex", "pip", "rex", "mia", "rex", "pip"]]
    assert loads == [True, True, False, True, False, True]
    assert np.array_equal(picture(generator), base)


def test_a_small_memory_budget_still_serves_every_subject_one_at_a_time(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path
) -> None:
    generator = make_generator(tiny_base_model, s3, tmp_path, MemoryLimits(subjects=8, device_bytes=1, memory_bytes=1))
    assert [draw(generator, subject=name).load_ms > 0 for name in ["rex", "tom", "rex"]] == [True, True, True]


def test_the_base_models_weights_that_are_kept_beside_count_among_the_subjects(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path
) -> None:
    models = make_generator(tiny_base_model, s3, tmp_path)._models
    models.select([Share("rex", VERSION, 1.0)])
    adapter, beside = (published["rex"] / LORA_WEIGHTS).stat().st_size, models._wardrobe.bytes
    assert beside > 0
    models.release()
    assert (models._wardrobe.bytes, models.select().networks.unet) == (0, models._base.networks.unet)
    for room, loads_again in ((beside, False), (0, True)):
        limits = MemoryLimits(subjects=8, device_bytes=2 * adapter + room, memory_bytes=10**9)
        generator = make_generator(tiny_base_model, s3, tmp_path, limits)
        loads = [draw(generator, subject=name).load_ms > 0 for name in ("rex", "tom", "rex")]
        assert loads == [True, True, loads_again]


def test_the_disk_keeps_no_more_than_its_budget(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path
) -> None:
    size = (published["rex"] / LORA_WEIGHTS).stat().st_size
    generator = make_generator(
        tiny_base_model, s3, tmp_path, MemoryLimits(subjects=1, device_bytes=1, memory_bytes=1), disk_bytes=2 * size
    )
    for name in ["rex", "tom", "rex", "mia"]:
        draw(generator, subject=name)
    assert [path.name for path in tmp_path.iterdir()] == [f"mia_{VERSION}"]


def test_a_damaged_copy_on_disk_is_fetched_again_and_left_overs_are_removed(
    generator: Generator, tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path
) -> None:
    draw(make_generator(tiny_base_model, s3, tmp_path), subject="rex")
    weights = tmp_path / f"rex_{VERSION}" / LORA_WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    (tmp_path / ".partial-abc").mkdir()
    again = picture(make_generator(tiny_base_model, s3, tmp_path), subject="rex")
    assert np.array_equal(again, picture(generator, subject="rex"))
    assert [path.name for path in tmp_path.iterdir()] == [f"rex_{VERSION}"]


def test_an_unknown_version_is_an_unknown_subject(generator: Generator) -> None:
    with pytest.raises(UnknownSubject, match="nobody"):
        draw(generator, subject="nobody")


def test_a_corrupt_file_is_refused_and_the_next_request_is_served(
    generator: Generator, tiny_base_model: Path, published: dict[str, Path], s3: Any
) -> None:
    base = picture(generator)
    manifest = version_manifest(tiny_base_model, "bad", VERSION, describe_files(published["rex"]))
    publish(s3, manifest, published["rex"])
    original = (published["rex"] / LORA_WEIGHTS).read_bytes()
    for content in (original[:-1] + b"\1", original[:100], b""):
        s3.put_object(Bucket=BUCKET, Key=manifest.prefix + LORA_WEIGHTS, Body=content)
        with pytest.raises(HostingFailed, match=LORA_WEIGHTS):
            draw(generator, subject="bad")
    s3.delete_object(Bucket=BUCKET, Key=manifest.prefix + LORA_WEIGHTS)
    with pytest.raises(HostingFailed, match="fetched whole"):
        draw(generator, subject="bad")
    assert np.array_equal(picture(generator), base)
    s3.put_object(Bucket=BUCKET, Key=manifest.prefix + LORA_WEIGHTS, Body=original)
    assert np.array_equal(picture(generator, subject="bad"), picture(generator, subject="rex"))


@pytest.mark.parametrize("damage", ["shape", "foreign", "garbage"])
def test_weights_that_do_not_fit_are_refused_without_a_trace(
    generator: Generator, tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path, damage: str
) -> None:
    base, rex = picture(generator), picture(generator, subject="rex")
    weights = load_file(published["rex"] / LORA_WEIGHTS)
    if damage == "shape":
        last = max(weights)
        weights[last] = torch.zeros(3, 5)
    elif damage == "foreign":
        weights = {f"unet.nowhere.{key}": value for key, value in weights.items()}
    save_file(weights, tmp_path / LORA_WEIGHTS)
    if damage == "garbage":
        (tmp_path / LORA_WEIGHTS).write_bytes(b"no weights at all")
    manifest = version_manifest(tiny_base_model, f"misfit-{damage}", VERSION, describe_files(tmp_path))
    publish(s3, manifest, tmp_path)
    refusals = []
    for _ in range(2):
        with pytest.raises(HostingFailed, match=f"misfit-{damage}") as caught:
            draw(generator, subject=f"misfit-{damage}")
        refusals.append(str(caught.value))
    assert refusals[0] == refusals[1]
    assert np.array_equal(picture(generator), base)
    assert np.array_equal(picture(generator, subject="rex"), rex)


@pytest.mark.parametrize(
    "change",
    [
        {"base_model_checksum": "0" * 64},
        {"prefix": "models/someone-else/0123456789ab-1/job/output/model/"},
        {"subject": "someone-else"},
        {"files": []},
        {"files": [FileEntry(path="unet/../../../x.safetensors", size=1, sha256="0" * 64)]},
        {"files": [FileEntry(path="/etc/x.safetensors", size=1, sha256="0" * 64)]},
    ],
)
def test_a_manifest_that_leads_astray_is_refused(
    generator: Generator, tiny_base_model: Path, published: dict[str, Path], s3: Any, change: dict[str, Any]
) -> None:
    files = describe_files(published["rex"])
    honest = version_manifest(tiny_base_model, "astray", VERSION, files)
    publish(s3, honest, published["rex"])
    astray = version_manifest(tiny_base_model, "astray", VERSION, files, **change)
    s3.put_object(Bucket=BUCKET, Key=f"models/astray/{VERSION}/{MANIFEST}", Body=astray.model_dump_json().encode())
    with pytest.raises(HostingFailed):
        draw(generator, subject="astray")


def test_a_changed_file_of_the_base_model_is_refused_by_name(tiny_base_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(tiny_base_model, copy)
    weights = next((copy / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(InvalidBaseModel, match=weights.name):
        load_base_model(copy, CPU)
    (copy / MANIFEST).unlink()
    with pytest.raises(InvalidBaseModel, match=MANIFEST):
        load_base_model(copy, CPU)


@pytest.mark.parametrize(
    "name", ["unet/diffusion_pytorch_model.safetensors.index.json", "tokenizer/merges.txt", "vae/more/config.json"]
)
def test_a_file_that_was_not_imported_with_the_base_model_is_refused_by_name(
    tiny_base_model: Path, tmp_path: Path, name: str
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(tiny_base_model, copy)
    (copy / "notes.txt").write_text("nobody reads this")
    load_base_model(copy, CPU)
    (copy / name).parent.mkdir(exist_ok=True)
    (copy / name).write_text("{}")
    with pytest.raises(InvalidBaseModel, match=name) as refused:
        load_base_model(copy, CPU)
    assert "Delete" in refused.value.cure


def test_without_a_bucket_only_the_base_model_is_served(tiny_base_model: Path) -> None:
    generator = Generator(SubjectModels(load_base_model(tiny_base_model, CPU), None, ROOMY), 1)
    assert picture(generator).shape == (64, 64, 3)
    with pytest.raises(HostingFailed, match="DATA_BUCKET"):
        draw(generator, subject="rex")
