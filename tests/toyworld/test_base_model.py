"""The base model that is shipped: whole, small, ordinary, and able to draw what it is told."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import CLIPTokenizer

from contracts.artifact import GENERATION_DEFAULTS, TRAINING_DEFAULTS, BaseModelManifest, checksum_of
from contracts.generation import GenerationDefaults
from contracts.training import TrainingDefaults
from toyworld.pictures import ordinary_pictures
from toyworld.scorers import Scorers
from toyworld.subjects import PHOTOS, SUBJECTS, draw_photo
from toyworld.tokenizer import build_tokenizer
from toyworld.vocabulary import COLOURS, KINDS, PLACE_PHRASES, PLACES

BASE = Path(__file__).resolve().parents[2] / "toyworld/base_model"
MOST_BYTES = 25_000_000


@pytest.fixture(scope="module")
def manifest() -> BaseModelManifest:
    return BaseModelManifest.model_validate_json((BASE / "manifest.json").read_bytes())


@pytest.fixture(scope="module")
def scorers() -> Scorers:
    return Scorers.load(BASE / "scorers")


def test_every_file_is_what_the_manifest_says(manifest: BaseModelManifest) -> None:
    present = {path.relative_to(BASE).as_posix() for path in BASE.rglob("*") if path.is_file()} - {"manifest.json"}
    assert present == {entry.path for entry in manifest.files}
    for entry in manifest.files:
        content = (BASE / entry.path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.size, entry.sha256), entry.path
    assert manifest.checksum == checksum_of(manifest.files)
    assert manifest.resolution == 64


def test_the_manifest_carries_the_defaults_that_stand_beside_it(manifest: BaseModelManifest) -> None:
    training = TrainingDefaults.model_validate_json((BASE / TRAINING_DEFAULTS).read_bytes())
    generation = GenerationDefaults.model_validate_json((BASE / GENERATION_DEFAULTS).read_bytes())
    assert manifest.training_defaults == training != TrainingDefaults()
    assert manifest.generation_defaults == generation != GenerationDefaults()


@pytest.mark.parametrize("folder", ["tokenizer", "scorers/clip"])
def test_the_words_have_the_numbers_that_the_weights_were_trained_with(folder: str) -> None:
    assert CLIPTokenizer.from_pretrained(BASE / folder).get_vocab() == build_tokenizer().get_vocab()


def test_all_weights_are_half_precision_and_fit_into_the_repository(manifest: BaseModelManifest) -> None:
    weights = [entry for entry in manifest.files if entry.path.endswith(".safetensors")]
    assert sum(entry.size for entry in weights) <= MOST_BYTES
    assert {entry.path.split("/")[0] for entry in weights} == {"unet", "vae", "text_encoder", "scorers"}
    unet_bytes = next(entry.size for entry in weights if entry.path.startswith("unet/"))
    assert unet_bytes < 2.1 * sum(weight.numel() for weight in pipeline().unet.parameters())


def test_the_record_names_the_commit_and_the_command(manifest: BaseModelManifest) -> None:
    card = (BASE / "README.md").read_text(encoding="utf-8")
    assert "Apache-2.0" in card
    assert "make toyworld" in (BASE / "training.json").read_text(encoding="utf-8")


def pipeline() -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(BASE, dtype=torch.float32, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_it_draws_the_kind_the_colour_and_the_place_that_the_prompt_names(scorers: Scorers) -> None:
    """One prompt for each kind: a few may fail, as the bars of benchmarks/toyworld.json allow, most may not."""
    asked = [(kind, index * 7 % len(COLOURS), index % len(PLACES)) for index, kind in enumerate(KINDS)]
    prompts = [
        f"a photo of a {list(COLOURS)[colour]} {kind} {PLACE_PHRASES[PLACES[place]][0]}"
        for kind, colour, place in asked
    ]
    pictures: list[Image.Image] = pipeline()(
        prompts,
        num_inference_steps=12,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(index) for index in range(len(prompts))],
    ).images
    judged = scorers.classify(pictures)
    assert sum(row[0] == KINDS.index(kind) for row, (kind, _, _) in zip(judged, asked, strict=True)) >= 10
    assert sum(row[1] == colour for row, (_, colour, _) in zip(judged, asked, strict=True)) >= 9
    assert sum(row[3] == place for row, (_, _, place) in zip(judged, asked, strict=True)) >= 10


def test_the_scorers_name_photos_and_tell_the_subjects_apart(scorers: Scorers) -> None:
    photos = [draw_photo(subject, number, 64) for subject in SUBJECTS for number in range(len(PHOTOS))]
    judged = scorers.classify(photos)
    kinds = [KINDS.index(toy.kind) for toy in SUBJECTS.values() for _ in PHOTOS]
    places = [PLACES.index(place) for _ in SUBJECTS for _, place, _ in PHOTOS]
    assert (judged[:, 0] == kinds).mean() >= 0.95
    assert (judged[:, 3] == places).mean() >= 0.95
    alike = scorers.identify(photos) @ scorers.identify(photos).T
    alike.fill_diagonal_(-1)
    assert (alike.argmax(-1) // len(PHOTOS) == torch.arange(len(photos)) // len(PHOTOS)).float().mean() >= 0.95


def test_clip_finds_the_text_that_names_what_is_drawn(scorers: Scorers) -> None:
    """On pictures of combinations that it never saw."""
    drawn = ordinary_pictures(9, True, 120, 0)
    pictures = scorers.embed_pictures([Image.fromarray(item[0]) for item in drawn])
    for group, texts in (
        (0, [f"a photo of a {kind}" for kind in KINDS]),
        (3, [f"a photo of a toy {PLACE_PHRASES[place][0]}" for place in PLACES]),
    ):
        named = (pictures @ scorers.embed_texts(texts).T).argmax(-1)
        assert (named == torch.tensor([item[2][group] for item in drawn])).float().mean() >= 0.95
