"""Drawing: seeds, samplers, and that subjects never leak into each other or into the base model. CPU, tiny weights."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image, ImageOps

from contracts.artifact import LORA_WEIGHTS
from contracts.errors import GenerationFailed, InvalidRequest, OutOfMemory, PromptRejected
from contracts.generation import GenerationDefaults, InferencePayload, Scheduler
from inference_container import adapters
from inference_container import generator as generator_module
from inference_container.answers import render
from inference_container.generator import Drawing, Generator, Settings
from inference_container.networks import load_base_model
from inference_container.payload import Invocation
from inference_container.pictures import read_source, to_json
from inference_container.prompts import split_weights, tokenise
from inference_container.subject_models import SubjectModels
from tests.containers.generators import CPU, DOG, ROOMY, VERSION, draw, make_generator, picture
from tests.containers.inference_parts import BUCKET, describe_files, publish, version_manifest
from tests.diffusion.their_schedulers import their_scheduler
from training_container.dreambooth.dataset import to_rgb

SCHEDULERS = get_args(Scheduler)
SOURCE = f"sources/{'a' * 16}/{'b' * 32}"


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_pictures_are_those_of_diffusers_own_pipeline(
    generator: Generator, tiny_base_model: Path, scheduler: Scheduler
) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base_model, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = their_scheduler(scheduler, pipeline.scheduler.config)
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
    for less in (0.5, 0, -1):
        assert np.array_equal(off, picture(generator, guidance_scale=less))
    assert not np.array_equal(off, picture(generator, guidance_scale=1.01))


def test_without_a_seed_each_request_draws_another_picture_and_tells_its_seed(generator: Generator) -> None:
    first, second = draw(generator, seed=None), draw(generator, seed=None)
    assert first.seeds != second.seeds
    assert np.array_equal(first.pictures[0], picture(generator, seed=first.seeds[0]))


def their_pipeline(base: Path, scheduler: Scheduler, kind: Any = StableDiffusionPipeline) -> Any:
    pipeline = kind.from_pretrained(base, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = their_scheduler(scheduler, pipeline.scheduler.config)
    return pipeline


def their_picture(pipeline: Any, prompt: str = DOG, **named: Any) -> np.ndarray:
    generator = torch.Generator("cpu").manual_seed(7)
    drawn: np.ndarray = pipeline(
        prompt, **{"num_inference_steps": 3, **named}, generator=generator, output_type="np"
    ).images[0]
    return drawn


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """In 255ths."""
    return float(np.abs(ours - theirs * 255.0).max())


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("subject", ["mia", "pip"])
def test_a_subject_is_drawn_as_diffusers_draws_it(
    generator: Generator, tiny_base_model: Path, published: dict[str, Path], subject: str, scheduler: Scheduler
) -> None:
    lora = subject == "mia"
    pipeline = their_pipeline(tiny_base_model if lora else published[subject], scheduler)
    if lora:
        pipeline.load_lora_weights(published[subject], weight_name=LORA_WEIGHTS)
    theirs = their_picture(pipeline)
    assert difference(picture(generator, subject=subject, scheduler=scheduler), theirs) <= 2
    assert difference(picture(generator, scheduler=scheduler), theirs) > 10


def test_lora_subjects_are_mixed_and_scaled_as_diffusers_does_it(
    generator: Generator, tiny_base_model: Path, published: dict[str, Path]
) -> None:
    pipeline = their_pipeline(tiny_base_model, "ddim")
    for name in ("mia", "uma"):
        pipeline.load_lora_weights(published[name], weight_name=LORA_WEIGHTS, adapter_name=name)
    pipeline.set_adapters(["mia", "uma"], [0.7, 0.4])
    mixed = {"lora_scale": 0.7, "mix": [{"subject": "uma", "version": VERSION, "lora_scale": 0.4}]}
    ours = picture(generator, subject="mia", scheduler="ddim", **mixed)
    assert difference(ours, their_picture(pipeline)) <= 2
    pipeline.set_adapters(["mia"], [0.3])
    scaled = picture(generator, subject="mia", scheduler="ddim", lora_scale=0.3)
    assert difference(scaled, their_picture(pipeline)) <= 2
    without = picture(generator, subject="mia", scheduler="ddim", lora_scale=0)
    assert np.array_equal(without, picture(generator, scheduler="ddim"))
    assert np.array_equal(ours, picture(generator, subject="mia", scheduler="ddim", **mixed))


def test_a_full_subject_is_neither_mixed_nor_scaled(generator: Generator) -> None:
    for change in ({"subject": "pip", "mix": [{"subject": "rex"}]}, {"subject": "rex", "mix": [{"subject": "pip"}]}):
        change["mix"][0]["version"] = VERSION  # type: ignore[index]
        with pytest.raises(InvalidRequest, match="mix"):
            draw(generator, **change)
    with pytest.raises(InvalidRequest, match="lora_scale"):
        draw(generator, subject="pip", lora_scale=0.5)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_source_picture_is_redrawn_as_diffusers_redraws_it(
    generator: Generator, tiny_base_model: Path, s3: Any, scheduler: Scheduler
) -> None:
    pixels = np.random.default_rng(3).integers(0, 255, (64, 64, 3), np.uint8)
    source = Image.fromarray(pixels).resize((16, 16)).resize((64, 64))
    put_source(s3, source)
    pipeline = their_pipeline(tiny_base_model, scheduler, StableDiffusionImg2ImgPipeline)
    asked = {"num_inference_steps": 6, "strength": 0.5}
    theirs = their_picture(pipeline, image=source, **asked)
    ours = picture(generator, source_image=SOURCE, scheduler=scheduler, **asked)
    assert difference(ours, theirs) <= 2
    assert not np.array_equal(ours, picture(generator, source_image=SOURCE, scheduler=scheduler, strength=1.0))


def put_source(s3: Any, source: Image.Image, form: str = "png", **options: Any) -> None:
    buffer = io.BytesIO()
    source.save(buffer, form, **options)
    s3.put_object(Bucket=BUCKET, Key=SOURCE, Body=buffer.getvalue())


def test_a_source_of_any_size_keeps_its_proportions_unless_told_otherwise(generator: Generator, s3: Any) -> None:
    sideways = Image.Exif()
    sideways[0x0112] = 6  # a quarter turn
    put_source(s3, Image.new("RGB", (400, 200), "red"), "jpeg", exif=sideways)
    assert picture(generator, source_image=SOURCE).shape == (128, 64, 3)
    assert picture(generator, source_image=SOURCE, width=80, height=40).shape == (40, 80, 3)
    put_source(s3, Image.new("RGBA", (64, 64), (0, 0, 0, 0)), "webp")
    assert picture(generator, source_image=SOURCE).shape == (64, 64, 3)


@pytest.mark.parametrize("content", [b"no picture", b"", b"\x89PNG\r\n\x1a\n" + b"0" * 50, b"GIF89a" + b"0" * 50])
def test_a_source_that_is_no_picture_is_the_callers_fault(generator: Generator, s3: Any, content: bytes) -> None:
    s3.put_object(Bucket=BUCKET, Key=SOURCE, Body=content)
    with pytest.raises(InvalidRequest, match="source_image"):
        draw(generator, source_image=SOURCE)
    s3.delete_object(Bucket=BUCKET, Key=SOURCE)
    with pytest.raises(InvalidRequest, match="no such picture"):
        draw(generator, source_image=SOURCE)


def test_an_upscaled_picture_is_the_same_picture_larger() -> None:
    toyworld = Path(__file__).parents[2] / "toyworld" / "base_model"
    generator = Generator(SubjectModels(load_base_model(toyworld, CPU), None, ROOMY), 1)
    asked = {"prompt": "a photo of a red ball on the beach", "num_inference_steps": 10}
    small, large = picture(generator, **asked), picture(generator, upscale=2, **asked)
    assert large.shape == (128, 128, 3)
    again = np.asarray(Image.fromarray(large).resize((64, 64)), np.float64)
    assert np.corrcoef(again.ravel(), small.ravel())[0, 1] > 0.9
    enlarged_alone = np.asarray(Image.fromarray(small).resize((128, 128), Image.Resampling.LANCZOS))
    assert not np.array_equal(large, enlarged_alone)


def test_long_prompts_are_read_to_their_end(generator: Generator) -> None:
    start = ", ".join(f"a red ball number {number}" for number in range(30))
    assert len(tokenise(generator._models._base.networks.tokenizer, start).ids) > 2
    assert not np.array_equal(picture(generator, prompt=start), picture(generator, prompt=f"{start}, on a beach"))
    assert not np.array_equal(picture(generator, prompt=DOG, negative_prompt=start), picture(generator, prompt=DOG))


def test_parts_of_a_prompt_weigh_what_is_asked(generator: Generator) -> None:
    plain = picture(generator, prompt="a dog with a red scarf")
    assert np.array_equal(plain, picture(generator, prompt="a dog with a (red scarf:1.0)"))
    heavy = picture(generator, prompt="a dog with a (red scarf:1.6)")
    light = picture(generator, prompt="a dog with a (red scarf:.4)")
    assert len({pixels.tobytes() for pixels in (plain, heavy, light)}) == 3
    assert split_weights("a (small) dog (c:") == [("a (small) dog (c:", 1.0)]
    assert split_weights("(a:2)(b:9)") == [("a", 2.0), ("b", 4.0)]
    assert split_weights("at (16:9)") == [("at (16:9)", 1.0)]
    assert split_weights("") == [("", 1.0)]


def batch(generator: Generator, *changes: dict[str, Any]) -> list[Any]:
    common = {"prompt": DOG, "num_inference_steps": 3, "subject": "rex", "version": VERSION}
    return generator.draw([InferencePayload.model_validate({**common, **change}) for change in changes])


def test_requests_drawn_together_get_the_pictures_that_each_would_get_alone(
    generator: Generator, tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path
) -> None:
    long = "a very long story about a dog, " * 12
    changes: list[dict[str, Any]] = [
        {"seed": 1, "num_images_per_prompt": 3},
        {"seed": 2, "prompt": long},
        {"seed": 3, "guidance_scale": 3.0, "negative_prompt": "blue"},
        {"seed": 4, "guidance_scale": 12.0},
    ]
    alone = [batch(generator, change)[0].pictures for change in changes]
    together = batch(generator, *changes)
    assert all(
        np.array_equal(one, other)
        for drawn, pictures in zip(together, alone, strict=True)
        for one, other in zip(drawn.pictures, pictures, strict=True)
    )
    in_one_pass = make_generator(tiny_base_model, s3, tmp_path, most_at_once=8)
    for scheduler in ("ddim", "euler_a"):
        named = [{**change, "scheduler": scheduler} for change in changes]
        expected = [batch(generator, change)[0].pictures for change in named]
        for drawn, pictures in zip(batch(in_one_pass, *named), expected, strict=True):
            for one, other in zip(drawn.pictures, pictures, strict=True):
                assert np.abs(one.astype(int) - other.astype(int)).max() <= 2


def test_out_of_memory_halves_the_number_at_once_and_carries_on(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    real = generator_module._draw_part

    def narrow(part: Any, *rest: Any) -> Any:
        passes.append(len(part))
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(part, *rest)

    monkeypatch.setattr(generator_module, "_draw_part", narrow)
    wide = make_generator(tiny_base_model, s3, tmp_path, most_at_once=8)
    [drawn] = batch(wide, {"num_images_per_prompt": 7, "seed": 1})
    assert (len(drawn.pictures), passes) == (7, [7, 3, 1, 1, 1, 1, 1, 1, 1])
    passes.clear()
    batch(wide, {"num_images_per_prompt": 3, "seed": 1})
    assert passes == [1, 1, 1]  # what this shape allows is known now
    passes.clear()
    batch(wide, {"num_images_per_prompt": 3, "seed": 1, "width": 72})
    assert passes == [3, 1, 1, 1]

    def impossible(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(generator_module, "_draw_part", impossible)
    assert [answer.code for answer in batch(wide, {}, {})] == ["out_of_memory"] * 2
    monkeypatch.setattr(generator_module, "_draw_part", real)
    assert len(batch(wide, {})[0].pictures) == 1


def test_a_change_of_weights_that_was_cut_short_is_made_good(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = make_generator(tiny_base_model, s3, tmp_path)
    base = picture(generator)
    real = adapters.Layer.change
    left = 3

    def fails_in_the_middle(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyError("cut short")
        return real(*arguments)

    monkeypatch.setattr(adapters.Layer, "change", fails_in_the_middle)
    with pytest.raises(KeyError):
        draw(generator, subject="mia")
    assert np.array_equal(picture(generator), base)
    monkeypatch.setattr(adapters.Layer, "change", real)
    assert not np.array_equal(picture(generator, subject="mia"), base)
    assert np.array_equal(picture(generator), base)


def test_out_of_memory_with_subjects_in_memory_is_tried_again_without_them(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = make_generator(tiny_base_model, s3, tmp_path)
    expected = picture(generator, subject="rex")
    draw(generator, subject="pip")
    real = generator_module._draw_part

    def only_alone(*arguments: Any) -> Any:
        if len(list(generator._models._on_device)) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments)

    def stays_where_it_is(*_: Any) -> Any:
        raise AssertionError("moved, and then dropped")

    monkeypatch.setattr(generator_module, "_draw_part", only_alone)
    monkeypatch.setattr(generator._models._on_device, "_on_eviction", stays_where_it_is)
    assert np.array_equal(picture(generator, subject="rex"), expected)


def test_a_failure_that_outlasts_its_cause_wears_the_process_out(
    tiny_base_model: Path, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = make_generator(tiny_base_model, s3, tmp_path)

    def fails(*_: Any) -> Any:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(generator_module, "_draw_part", fails)
    with pytest.raises(OutOfMemory):
        draw(generator)
    assert generator.worn_out


def test_a_full_subject_without_a_text_encoder_draws_with_the_base_models_own(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path: Path
) -> None:
    shutil.copytree(published["pip"] / "unet", tmp_path / "una" / "unet")
    publish(s3, version_manifest(tiny_base_model, "una", VERSION, describe_files(tmp_path / "una")), tmp_path / "una")
    generator = make_generator(tiny_base_model, s3, tmp_path / "cache")
    expected = picture(generator, subject="pip")  # whose text encoder is the base model's too
    draw(generator, subject="mia")
    assert np.array_equal(picture(generator, subject="una"), expected)


def test_no_source_makes_an_upscaled_picture_larger_than_the_limit(generator: Generator, s3: Any) -> None:
    put_source(s3, Image.new("RGB", (16, 1000), "red"))
    with pytest.raises(InvalidRequest, match="upscale"):
        draw(generator, source_image=SOURCE, upscale=4)


def test_sixteen_bit_grey_sources_are_scaled_and_broken_exif_is_the_callers_fault(
    generator: Generator, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = np.arange(0, 2**16, 2**4, dtype=np.uint16).reshape(64, 64)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "png")
    assert np.array_equal(read_source(buffer.getvalue()), to_rgb(Image.fromarray(levels)))  # as a photo is learned
    monkeypatch.setattr(ImageOps, "exif_transpose", lambda _: struct.unpack("<H", b"1"))
    with pytest.raises(InvalidRequest, match="source_image"):
        read_source(buffer.getvalue())


def test_one_bad_request_of_a_batch_fails_alone(generator: Generator, s3: Any) -> None:
    put_source(s3, Image.new("RGB", (64, 64), "red"))
    missing = SOURCE[:-1] + "0"
    good, bad = batch(
        generator,
        {"source_image": SOURCE, "width": 64, "height": 64},
        {"source_image": missing, "width": 64, "height": 64},
    )
    assert len(good.pictures) == 1
    assert bad.code == "invalid_request"


def test_a_blocked_prompt_is_refused_and_a_watermark_is_drawn_where_they_are_set(
    generator: Generator, tiny_base_model: Path
) -> None:
    models = SubjectModels(load_base_model(tiny_base_model, CPU), None, ROOMY)
    strict = Generator(models, 1, Settings(blocked_words=("wicked wolf",), watermark="AI"))
    asked = {"num_inference_steps": 3, "seed": 7}
    payloads = [InferencePayload.model_validate({"prompt": text, **asked}) for text in ("a WICKED  wolf", DOG)]
    refused, drawn = strict.draw(payloads)
    assert isinstance(refused, PromptRejected)
    assert isinstance(drawn, Drawing)
    plain = picture(generator)
    assert np.array_equal(plain[:32], drawn.pictures[0][:32])
    assert not np.array_equal(plain[32:], drawn.pictures[0][32:])


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_a_file_tells_how_its_picture_came_about(generator: Generator, form: Any) -> None:
    drawn = draw(generator, subject="rex", prompt="ein Hündchen", scheduler="ddim")
    payload = InferencePayload(prompt="ein Hündchen")
    answer = json.loads(render(Invocation(payload=payload, plain_text=False, form=form), drawn))
    file = Image.open(io.BytesIO(base64.b64decode(answer["generated_images"][0])))
    assert file.format == form.upper()
    told = file.text["Description"] if form == "png" else file.getexif()[0x010E]  # type: ignore[attr-defined]
    origin = json.loads(told)
    assert origin["prompt"] == "ein Hündchen"
    assert (origin["seed"], origin["subjects"], origin["scheduler"]) == (7, [f"rex@{VERSION}"], "ddim")
    exact = np.array_equal(np.asarray(file.convert("RGB")), drawn.pictures[0])
    assert exact or form == "jpeg"


def test_what_a_request_leaves_open_is_drawn_as_the_base_model_likes_it(tiny_base_model: Path) -> None:
    base = load_base_model(tiny_base_model, CPU)
    liked = GenerationDefaults(num_inference_steps=4, guidance_scale=3.0, scheduler="euler")
    manifest = base.manifest.model_copy(update={"generation_defaults": liked})
    plain = Generator(SubjectModels(base, None, ROOMY), 1)
    own = Generator(SubjectModels(dataclasses.replace(base, manifest=manifest), None, ROOMY), 1)
    left_open = {"num_inference_steps": None}
    assert np.array_equal(picture(own, **left_open), picture(plain, **liked.model_dump()))
    for asked in ({"num_inference_steps": 2}, {"guidance_scale": 1.0}, {"scheduler": "ddim"}):
        named = {**liked.model_dump(), **asked}
        assert np.array_equal(picture(own, **left_open | asked), picture(plain, **named)), asked
        assert not np.array_equal(picture(own, **left_open), picture(plain, **named)), asked


def test_a_picture_of_nans_is_reported_and_not_sent_as_black(tiny_base_model: Path) -> None:
    base = load_base_model(tiny_base_model, CPU)
    with torch.no_grad():
        next(base.networks.vae.decoder.parameters()).fill_(float("nan"))
    with pytest.raises(GenerationFailed, match="not-a-number"):
        draw(Generator(SubjectModels(base, None, ROOMY), 1))


def test_rgb_answers_are_nested_integers_under_jumpstarts_keys() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    drawing = Drawing([pixels, pixels], [1, 2], [{}, {}], load_ms=0, compute_ms=1)
    prompts = ["a", "b"]
    invocation = Invocation(payload=InferencePayload(prompt=prompts), plain_text=False, form="rgb")
    assert json.loads(render(invocation, drawing)) == {"generated_images": [pixels.tolist()] * 2, "prompt": prompts}
    text = Invocation(payload=InferencePayload(prompt="a"), plain_text=True, form="rgb")
    assert json.loads(render(text, drawing)) == {"generated_image": pixels.tolist(), "prompt": "a"}


def test_pictures_become_json_several_times_faster_than_json_writes_them() -> None:
    for shape in ((1, 1, 3), (3, 2, 3), (1, 7, 3), (256, 5, 3)):
        pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
        assert to_json(pixels) == json.dumps(pixels.tolist(), separators=(",", ":")).encode()
    large = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    assert 3 * best_of_three(lambda: to_json(large)) < best_of_three(lambda: json.dumps(large.tolist()))


def best_of_three(work: Callable[[], object]) -> float:
    """Seconds of this process."""
    taken = []
    for _ in range(3):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return min(taken)
