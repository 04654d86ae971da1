"""Drawing: seeds, samplers, and that subjects never leak into each other or into the base model. CPU, tiny weights."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from contracts.artifact import LEARNED_WORDS, LORA_WEIGHTS, FileEntry
from contracts.errors import GenerationFailed, HostingFailed, InvalidBaseModel, UnknownSubject
from contracts.generation import GenerationDefaults, InferencePayload, Scheduler
from contracts.storage import MANIFEST
from inference_container.answers import render
from inference_container.generator import Drawing, Generator
from inference_container.payload import Invocation
from inference_container.pipelines import load_base_model
from inference_container.schedulers import make_scheduler
from inference_container.subject_models import MemoryLimits, SubjectModels
from inference_container.subjects import SubjectStore
from tests.containers.inference_parts import (
    BUCKET,
    describe_files,
    make_full,
    make_lora,
    publish,
    s3_server,
    version_manifest,
)

CPU = torch.device("cpu")
VERSION = "0123456789ab-1"
ROOMY = MemoryLimits(subjects=8, bytes=10**9)
SCHEDULERS = get_args(Scheduler)
DOG = "a photo of sks dog"


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with s3_server() as (_, client):
        yield client


@pytest.fixture(scope="module")
def published(tiny_base_model: Path, tmp_path_factory: pytest.TempPathFactory, s3: Any) -> dict[str, Path]:
    """rex and tom: LoRA. mia: LoRA of UNet and text encoder. pip: full."""
    root = tmp_path_factory.mktemp("subjects")
    directories = {
        "rex": make_lora(tiny_base_model, root / "rex", seed=1),
        "tom": make_lora(tiny_base_model, root / "tom", seed=2),
        "mia": make_lora(tiny_base_model, root / "mia", seed=3, text_encoder=True),
        "pip": make_full(tiny_base_model, root / "pip", seed=4),
    }
    for subject, directory in directories.items():
        publish(s3, version_manifest(tiny_base_model, subject, VERSION, describe_files(directory)), directory)
    return directories


def make_generator(
    base: Path, s3: Any, cache: Path, limits: MemoryLimits = ROOMY, disk_bytes: int = 10**9
) -> Generator:
    store = SubjectStore(s3, BUCKET, cache, disk_bytes)
    return Generator(SubjectModels(load_base_model(base, CPU), store, limits))


@pytest.fixture(scope="module")
def generator(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path_factory: pytest.TempPathFactory
) -> Generator:
    return make_generator(tiny_base_model, s3, tmp_path_factory.mktemp("cache"))


def draw(generator: Generator, **payload: Any) -> Drawing:
    named = {"prompt": DOG, "num_inference_steps": 3, "seed": 7, **payload}
    if "subject" in named:
        named.setdefault("version", VERSION)
    return generator.draw(InferencePayload(**named))


def picture(generator: Generator, **payload: Any) -> np.ndarray:
    return draw(generator, **payload).pictures[0]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_pictures_are_those_of_diffusers_own_pipeline(
    generator: Generator, tiny_base_model: Path, scheduler: Scheduler
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base_model, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler(scheduler, pipeline.scheduler.config)
    theirs = pipeline(
        DOG,
        negative_prompt="blurry",
        num_inference_steps=5,
        guidance_scale=6,
        generator=torch.Generator("cpu").manual_seed(7),
        output_type="np",
    ).images[0]
    ours = picture(generator, scheduler=scheduler, negative_prompt="blurry", num_inference_steps=5, guidance_scale=6)
    assert ours.std() > 1
    assert np.abs(ours / 255 - theirs).max() <= 1 / 255


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_each_picture_of_a_request_equals_the_one_asked_for_alone_by_its_seed(
    generator: Generator, scheduler: Scheduler
) -> None:
    several = draw(generator, seed=2**32 - 2, num_images_per_prompt=3, scheduler=scheduler)
    assert several.seeds == [2**32 - 2, 2**32 - 1, 0]
    for seed, pixels in zip(several.seeds, several.pictures, strict=True):
        assert np.array_equal(pixels, picture(generator, seed=seed, scheduler=scheduler))
    assert not np.array_equal(several.pictures[0], several.pictures[1])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_one_step_is_enough_for_every_sampler(generator: Generator, scheduler: Scheduler) -> None:
    assert picture(generator, scheduler=scheduler, num_inference_steps=1).shape == (64, 64, 3)


def test_samplers_differ_and_leave_no_trace(generator: Generator) -> None:
    first = {name: picture(generator, scheduler=name, num_inference_steps=4) for name in SCHEDULERS}
    again = {name: picture(generator, scheduler=name, num_inference_steps=4) for name in reversed(SCHEDULERS)}
    assert all(np.array_equal(first[name], again[name]) for name in SCHEDULERS)
    assert len({pixels.tobytes() for pixels in first.values()}) >= 5


def test_the_samplers_of_earlier_requests_do_not_shape_later_ones(tiny_base_model: Path) -> None:
    base = load_base_model(tiny_base_model, CPU)
    trained_with = base.pipeline.scheduler
    draw(Generator(SubjectModels(base, None, ROOMY)), scheduler="euler_a")
    assert base.pipeline.scheduler is trained_with


def test_lists_of_prompts_are_drawn_prompt_major(generator: Generator) -> None:
    both = draw(generator, prompt=["a red car", "a blue boat"], negative_prompt=["a", "b"], num_images_per_prompt=2)
    alone = picture(generator, prompt="a blue boat", negative_prompt="b", seed=9)
    assert both.seeds == [7, 8, 9, 10]
    assert np.array_equal(both.pictures[2], alone)


def test_every_field_changes_the_picture(generator: Generator) -> None:
    plain = picture(generator)
    for change in (
        {"prompt": "a cat"},
        {"negative_prompt": "blue"},
        {"num_inference_steps": 4},
        {"guidance_scale": 3.0},
        {"seed": 8},
        {"scheduler": "euler_a"},
    ):
        assert not np.array_equal(plain, picture(generator, **change)), change
    assert picture(generator, width=72, height=40).shape == (40, 72, 3)


def test_guidance_of_one_or_less_is_off_and_ignores_the_negative_prompt(generator: Generator) -> None:
    off = picture(generator, guidance_scale=1, negative_prompt="blue")
    assert np.array_equal(off, picture(generator, guidance_scale=0.5))
    assert not np.array_equal(off, picture(generator, guidance_scale=1.01))


def test_without_a_seed_each_request_draws_another_picture_and_tells_its_seed(generator: Generator) -> None:
    first, second = draw(generator, seed=None), draw(generator, seed=None)
    assert first.seeds != second.seeds
    assert np.array_equal(first.pictures[0], picture(generator, seed=first.seeds[0]))


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
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler.config)
    theirs = pipeline(
        DOG, num_inference_steps=3, generator=torch.Generator("cpu").manual_seed(7), output_type="np"
    ).images[0]
    assert np.abs(picture(generator, subject="zoe", scheduler="ddim") / 255 - theirs).max() <= 2 / 255


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


def test_a_lora_subject_is_drawn_as_diffusers_draws_it(
    generator: Generator, tiny_base_model: Path, published: dict[str, Path]
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base_model, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(published["mia"], weight_name=LORA_WEIGHTS)
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler.config)
    theirs = pipeline(
        DOG, num_inference_steps=3, generator=torch.Generator("cpu").manual_seed(7), output_type="np"
    ).images[0]
    assert np.abs(picture(generator, subject="mia", scheduler="ddim") / 255 - theirs).max() <= 2 / 255


def test_a_subject_is_loaded_once_and_then_warm(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path
) -> None:
    generator = make_generator(tiny_base_model, s3, tmp_path)
    assert draw(generator, subject="rex").load_ms > 0
    assert draw(generator, subject="rex").load_ms == 0


def test_memory_keeps_the_latest_subjects_and_evicts_the_oldest(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path
) -> None:
    generator = make_generator(tiny_base_model, s3, tmp_path, MemoryLimits(subjects=2, bytes=10**9))
    base = picture(generator)
    loads = [draw(generator, subject=name).load_ms > 0 for name in ["rex", "pip", "rex", "mia", "rex", "pip"]]
    assert loads == [True, True, False, True, False, True]
    assert np.array_equal(picture(generator), base)


def test_a_small_memory_budget_still_serves_every_subject_one_at_a_time(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path
) -> None:
    generator = make_generator(tiny_base_model, s3, tmp_path, MemoryLimits(subjects=8, bytes=1))
    assert [draw(generator, subject=name).load_ms > 0 for name in ["rex", "tom", "rex"]] == [True, True, True]


def test_the_disk_keeps_no_more_than_its_budget(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path
) -> None:
    size = (published["rex"] / LORA_WEIGHTS).stat().st_size
    generator = make_generator(tiny_base_model, s3, tmp_path, MemoryLimits(subjects=1, bytes=1), disk_bytes=2 * size)
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


def test_what_a_request_leaves_open_is_drawn_as_the_base_model_likes_it(tiny_base_model: Path) -> None:
    base = load_base_model(tiny_base_model, CPU)
    liked = GenerationDefaults(num_inference_steps=4, guidance_scale=3.0, scheduler="euler")
    manifest = base.manifest.model_copy(update={"generation_defaults": liked})
    plain = Generator(SubjectModels(base, None, ROOMY))
    own = Generator(SubjectModels(dataclasses.replace(base, manifest=manifest), None, ROOMY))
    left_open = {"num_inference_steps": None}
    assert np.array_equal(picture(own, **left_open), picture(plain, **liked.model_dump()))
    for asked in ({"num_inference_steps": 2}, {"guidance_scale": 1.0}, {"scheduler": "ddim"}):
        named = {**liked.model_dump(), **asked}
        assert np.array_equal(picture(own, **left_open | asked), picture(plain, **named)), asked
        assert not np.array_equal(picture(own, **left_open), picture(plain, **named)), asked


def test_a_picture_of_nans_is_reported_and_not_sent_as_black(tiny_base_model: Path) -> None:
    base = load_base_model(tiny_base_model, CPU)
    with torch.no_grad():
        next(base.pipeline.vae.decoder.parameters()).fill_(float("nan"))
    with pytest.raises(GenerationFailed, match="not-a-number"):
        draw(Generator(SubjectModels(base, None, ROOMY)))


def test_without_a_bucket_only_the_base_model_is_served(tiny_base_model: Path) -> None:
    generator = Generator(SubjectModels(load_base_model(tiny_base_model, CPU), None, ROOMY))
    assert picture(generator).shape == (64, 64, 3)
    with pytest.raises(HostingFailed, match="DATA_BUCKET"):
        draw(generator, subject="rex")


def test_rgb_answers_are_nested_integers_under_jumpstarts_keys() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    drawing = Drawing([pixels, pixels], [1, 2], load_ms=0, compute_ms=1)
    prompts = ["a", "b"]
    invocation = Invocation(payload=InferencePayload(prompt=prompts), plain_text=False, form="rgb")
    assert json.loads(render(invocation, drawing)) == {"generated_images": [pixels.tolist()] * 2, "prompt": prompts}
    text = Invocation(payload=InferencePayload(prompt="a"), plain_text=True, form="rgb")
    assert json.loads(render(text, drawing)) == {"generated_image": pixels.tolist(), "prompt": "a"}
