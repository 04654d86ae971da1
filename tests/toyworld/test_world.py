"""The drawn world: the same seed draws the same, every kind and accessory shows, captions say what is there."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from toyworld.captions import caption
from toyworld.pictures import VIEWS, ordinary_pictures, sample_of
from toyworld.scenes import Attributes, Toy, View, draw_scene, sample_attributes, sample_odd_toy, sample_view, toy_of
from toyworld.subjects import PHOTOS, SUBJECTS, class_prompt, draw_photo, instance_prompt
from toyworld.vocabulary import ACCESSORIES, COLOURS, IDENTIFIERS, KINDS, PLACE_PHRASES, PLACES, Accessory, Kind, Place

SIDE = 64
STILL = View(0.95, 128, 230, 0)
RED = Attributes("ball", "red", "white", "plain", "grass")


def drawn(toy: Toy, place: Place = "grass", view: View = STILL, seed: int = 0) -> tuple[NDArray[np.uint8], ...]:
    picture, mask = draw_scene(toy, place, view, SIDE, Random(seed))
    return np.asarray(picture), np.asarray(mask)


def test_the_same_seed_draws_the_same_pictures_and_another_seed_does_not() -> None:
    first, again, other = (ordinary_pictures(seed, False, 3, 0) for seed in (1, 1, 2))
    assert all((a[0] == b[0]).all() and a[4] == b[4] for a, b in zip(first, again, strict=True))
    assert any((a[0] != b[0]).any() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_toy_fills_a_good_part_of_the_picture_and_its_mask_says_where(kind: Kind) -> None:
    toy = toy_of(replace(RED, kind=kind, colour="purple"), Random(0))
    picture, mask = drawn(toy)
    empty, _ = drawn(replace(toy), view=replace(STILL, size=0.01))
    assert 0.15 < (mask > 127).mean() < 0.8
    changed = np.abs(picture.astype(int) - empty.astype(int)).sum(-1) > 60
    assert changed[mask > 250].mean() > 0.85
    assert changed[mask == 0].mean() < 0.1  # its shadow


@pytest.mark.parametrize("accessory", ACCESSORIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_wear_everything_within_the_picture(kind: Kind, accessory: Accessory) -> None:
    plain = Toy(kind, toy_of(RED, Random(0)).coat)
    changed = (drawn(plain)[0] != drawn(replace(plain, wears={accessory: (20, 240, 240)}))[0]).any(-1)
    assert changed.sum() > 30, f"a {kind} hides its {accessory}"


@pytest.mark.parametrize("place", PLACES)
def test_places_differ_more_from_each_other_than_they_vary(place: Place) -> None:
    toy = toy_of(RED, Random(0))

    def backdrop(where: Place, seed: int) -> NDArray[np.float64]:
        picture, mask = drawn(toy, where, seed=seed)
        return np.where((mask == 0)[..., None], picture, 0).astype(float)

    own = np.mean([np.abs(backdrop(place, 0) - backdrop(place, seed)).mean() for seed in range(1, 5)])
    others = [np.abs(backdrop(place, 0) - backdrop(other, 1)).mean() for other in PLACES if other != place]
    assert own < min(others)


def test_a_toy_keeps_its_look_in_another_place() -> None:
    toy = sample_odd_toy(Random(3), "star")
    (here, mask), (there, _) = drawn(toy, "grass"), drawn(toy, "night")
    assert (here[mask == 255] == there[mask == 255]).mean() > 0.99


def test_held_out_combinations_are_never_among_the_others() -> None:
    rng = Random(0)
    trained = {(a.kind, a.colour, a.place) for a in (sample_of(False, rng) for _ in range(3000))}
    kept = {(a.kind, a.colour, a.place) for a in (sample_of(True, rng) for _ in range(3000))}
    assert not trained & kept
    assert 60 < len(kept) < 140
    for position, names in enumerate((KINDS, COLOURS, PLACES)):
        assert {combination[position] for combination in trained} == set(names)
        assert {combination[position] for combination in kept} == set(names)


def test_captions_name_the_kind_always_and_never_anything_that_is_not_there() -> None:
    rng = Random(0)
    said_colour = said_place = 0
    for _ in range(500):
        attributes = sample_attributes(rng)
        text = caption(attributes, rng)
        words = set(text.split())
        allowed = {attributes.colour, attributes.second, attributes.accessory_colour}
        assert attributes.kind in words
        assert {colour for colour in COLOURS if colour in words} <= allowed, text
        assert {kind for kind in KINDS if kind in words} == {attributes.kind}
        places = [place for place, phrases in PLACE_PHRASES.items() if any(text.endswith(one) for one in phrases)]
        assert places in ([], [attributes.place]), text
        said_colour += attributes.colour in words
        said_place += bool(places)
        if attributes.accessory is None:
            assert not words & set(ACCESSORIES)
    assert 350 < said_colour < 500
    assert 350 < said_place < 480


def test_captions_sometimes_carry_an_identifier() -> None:
    rng = Random(0)
    texts = [caption(sample_attributes(rng), rng) for _ in range(300)]
    assert 10 < sum(bool(set(text.split()) & set(IDENTIFIERS)) for text in texts) < 60


def is_ordinary(toy: Toy) -> bool:
    """Whether pretraining's own toys could look like this."""
    return (
        toy.coat.pattern in ("plain", "striped", "dotted")
        and len(toy.wears) <= 1
        and toy.lips is None
        and toy.antennae is None
        and not toy.one_eyed
    )


def test_pretraining_draws_ordinary_toys_only_and_the_subjects_are_none() -> None:
    rng = Random(0)
    assert all(is_ordinary(toy_of(sample_attributes(rng), rng)) for _ in range(300))
    assert not any(is_ordinary(toy) for toy in SUBJECTS.values())


def test_there_are_twelve_subjects_one_of_each_kind_and_no_two_photos_of_one_are_the_same() -> None:
    assert sorted(toy.kind for toy in SUBJECTS.values()) == sorted(KINDS)
    for subject, toy in SUBJECTS.items():
        photos = [np.asarray(draw_photo(subject, number, SIDE)).tobytes() for number in range(len(PHOTOS))]
        assert len(set(photos)) == len(photos) == 5
        assert instance_prompt(subject) == f"a photo of a sks {toy.kind}"
        assert class_prompt(subject) == f"a photo of a {toy.kind}"


def test_the_example_datasets_are_what_the_code_draws() -> None:
    from pathlib import Path

    from PIL import Image

    root = Path(__file__).resolve().parents[2] / "examples/datasets"
    for subject in SUBJECTS:
        for number, (name, _, _) in enumerate(PHOTOS):
            shipped = np.asarray(Image.open(root / subject / name).convert("RGB")).astype(int)
            fresh = np.asarray(draw_photo(subject, number, 256)).astype(int)
            assert np.abs(shipped - fresh).mean() < (0.01 if name.endswith("png") else 4), f"{subject}/{name}"


def test_views_of_odd_toys_come_in_threes() -> None:
    from toyworld.pictures import odd_pictures

    pictures = odd_pictures(0, 2 * VIEWS, 0)
    assert [item[3] for item in pictures] == [0, 0, 0, 1, 1, 1]
    assert sample_view(Random(0)) != sample_view(Random(1))
