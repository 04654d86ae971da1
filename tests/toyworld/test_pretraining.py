"""The parts of pretraining: the tokenizer's words, the loop that may be interrupted, latents of unit variance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from toyworld.pictures import Album, keep, ordinary_album
from toyworld.pretraining import fit as loop
from toyworld.pretraining.autoencoder import LATENT_CHANNELS, build_autoencoder, normalise_latents
from toyworld.pretraining.denoiser import loss_weights
from toyworld.pretraining.fit import Recipe, fit, rate_at
from toyworld.pretraining.language import contrastive_loss, unit, words_said
from toyworld.pretraining.views import as_tensor, disturbed
from toyworld.pretraining.vision import build_resnet, calibrate, label_names
from toyworld.scorers import frechet_distance
from toyworld.tokenizer import MAX_TOKENS, build_tokenizer, known_words, learn_merges


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer()


def test_every_known_word_is_one_token(tokenizer: CLIPTokenizer) -> None:
    assert {word: tokenizer.tokenize(word) for word in known_words() if len(tokenizer.tokenize(word)) != 1} == {}


def test_merges_take_the_most_frequent_pair_and_of_equals_the_first_in_the_alphabet() -> None:
    merges = learn_merges(["cat", "car", "hat"])
    assert merges == [("a", "t</w>"), ("a", "r</w>"), ("c", "ar</w>"), ("c", "at</w>"), ("h", "at</w>")]


@pytest.mark.parametrize("text", ["a zebra crossing", "ünïcode ☃", "photo-of; 42!", "", "AN UPPER CASE CAT"])
def test_any_text_is_spelled_out_and_comes_back(tokenizer: CLIPTokenizer, text: str) -> None:
    ids = tokenizer(text, padding="max_length", truncation=True).input_ids
    assert len(ids) == MAX_TOKENS
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id in ids
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(decoded.split()) == "".join(text.lower().split())


def test_the_tokenizer_survives_saving(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    text = "a photo of a sks robot under the sea"
    assert CLIPTokenizer.from_pretrained(tmp_path)(text).input_ids == tokenizer(text).input_ids


def test_words_said_marks_the_words_of_a_caption() -> None:
    words = known_words()
    said = words_said(["a red ball"])[0]
    assert {words[i] for i in said.nonzero()[:, 0].tolist()} == {"a", "red", "ball"}


RECIPE = Recipe(steps=12, batch=4, learning_rate=0.05, warmup=2, seed=3, steps_between_checkpoints=5)


class Interrupted(Exception):
    pass


def train_line(folder: Path, *, interrupted_at: int | None = None) -> Tensor:
    torch.manual_seed(0)
    model, calls = nn.Linear(3, 1), 0

    def loss_at(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        nonlocal calls
        calls += 1
        if calls == interrupted_at:
            raise Interrupted
        points = torch.randn((RECIPE.batch, 3), generator=generator)
        return (model(points) - points.sum(-1, keepdim=True)).pow(2).mean(), {"extra": 1.0}

    fit(folder, {"model": model}, RECIPE, loss_at, lambda: {"weight": model.weight.sum().item()})
    return torch.cat([model.weight.detach().flatten(), model.bias.detach()])


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "STEPS_BETWEEN_REPORTS", 4)
    whole = train_line(tmp_path / "whole")
    with pytest.raises(Interrupted):
        train_line(tmp_path / "parts", interrupted_at=8)
    assert torch.equal(train_line(tmp_path / "parts"), whole)
    reports = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert [report["step"] for report in reports] == [4, 8, 12]
    assert reports[-1]["loss"] < reports[0]["loss"]
    assert "weight" in reports[-1]


def test_a_finished_stage_is_not_trained_again(tmp_path: Path) -> None:
    done = train_line(tmp_path)
    assert torch.equal(train_line(tmp_path, interrupted_at=1), done)


def test_the_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(steps=1000, batch=1, learning_rate=1.0, warmup=100, cooldown=0.5)
    assert rate_at(recipe, 0) == pytest.approx(0.01)
    assert rate_at(recipe, 300) == 1.0
    assert rate_at(recipe, 750) == pytest.approx(0.51, abs=0.01)
    assert rate_at(recipe, 999) == pytest.approx(0.02, abs=0.001)


def test_normalised_latents_have_unit_variance_and_give_the_same_pictures() -> None:
    torch.manual_seed(0)
    vae = build_autoencoder().eval()
    pictures = torch.rand(8, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        before = vae.encode(pictures).latent_dist
        decoded = vae.decode(before.mean).sample
        normalise_latents(vae, before.mean)
        after = vae.encode(pictures).latent_dist
        assert torch.allclose(after.mean.mean((0, 2, 3)), torch.zeros(LATENT_CHANNELS), atol=1e-4)
        assert torch.allclose(after.mean.std((0, 2, 3)), torch.ones(LATENT_CHANNELS), atol=1e-4)
        assert torch.allclose(after.std / before.std, 1 / before.mean.std((0, 2, 3))[None, :, None, None], atol=1e-3)
        assert torch.allclose(vae.decode(after.mean).sample, decoded, atol=1e-4)


def test_the_toy_weighs_four_times_its_surroundings() -> None:
    masks = torch.zeros(1, 1, 64, 64)
    masks[..., :32] = 1
    weights = loss_weights(masks)
    assert weights.shape == (1, 1, 16, 16)
    assert weights.mean() == pytest.approx(1.0)
    assert (weights[..., 0] / weights[..., -1]).unique().tolist() == pytest.approx([4.0])


def test_the_contrastive_loss_is_small_only_when_rows_belong_together() -> None:
    vectors = unit(torch.randn(16, 32, generator=torch.Generator().manual_seed(0)))
    scale = torch.tensor(3.0)
    assert contrastive_loss(vectors, vectors, scale) < 0.1
    assert contrastive_loss(vectors, vectors.roll(1, 0), scale) > 5


def test_disturbed_pictures_stay_pictures_and_each_seed_disturbs_in_its_own_way() -> None:
    pictures = torch.rand(4, 3, 64, 64) * 2 - 1
    one, same, other = (disturbed(pictures, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.shape == pictures.shape
    assert one.abs().max() <= 1


def test_an_album_is_drawn_once(tmp_path: Path) -> None:
    drawn: list[Album] = []

    def draw() -> Album:
        drawn.append(ordinary_album(0, 4))
        return drawn[-1]

    first, second = keep(tmp_path, draw), keep(tmp_path, draw)
    assert len(drawn) == 1
    assert len(first) == 4
    assert (np.asarray(second.pictures) == drawn[0].pictures).all()
    assert second.captions == drawn[0].captions


def test_the_frechet_distance_of_known_gaussians() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=(20_000, 3))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(one, one + np.array([3.0, 0, 0])) == pytest.approx(9, rel=0.01)
    assert frechet_distance(one, rng.normal(size=(20_000, 3)) * 2) == pytest.approx(3, rel=0.05)  # 3 x (2 - 1)^2


def test_calibration_gives_batch_norm_the_statistics_of_the_pictures_that_it_will_see() -> None:
    album = ordinary_album(5, 40)
    torch.manual_seed(0)
    model = build_resnet(label_names())
    first = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    calibrate(model, [album])
    assert not model.training
    seen: list[Tensor] = []
    first.register_forward_hook(lambda _module, _inputs, normalised: seen.append(normalised))
    model(as_tensor(album.pictures, torch.device("cpu")))
    assert seen[0].mean((0, 2, 3)).abs().max() < 0.1
    assert torch.allclose(seen[0].std((0, 2, 3)), torch.ones(seen[0].shape[1]), atol=0.2)
