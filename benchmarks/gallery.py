"""Toys drawn by code: prototypes among which a picture's toy is sought, and pictures as they should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.plan import ORDINARY_TOYS, SEED, VIEWS_OF_A_TOY, Shot
from toyworld.pictures import SIDE
from toyworld.scenes import Toy, draw_scene, sample_attributes, sample_view, toy_of
from toyworld.subjects import SUBJECTS
from toyworld.vocabulary import PLACES, Kind

Vectors = NDArray[np.float32]  # (N, D)


@dataclass(frozen=True)
class Gallery:
    names: tuple[str, ...]
    prototypes: Vectors  # unit length, one a name


def prototype_of(views: Vectors) -> Vectors:
    """(D,): the mean of several views, unit length."""
    mean = views.mean(0)
    return np.asarray(mean / np.linalg.norm(mean))


def nearest(gallery: Gallery, seen: Vectors) -> list[str]:
    """By cosine; seen is (N, D), unit length."""
    return [gallery.names[index] for index in (seen @ gallery.prototypes.T).argmax(-1)]


def toys_beside(kind: Kind) -> dict[str, Toy]:
    """All subjects, and many ordinary toys of the kind."""
    toys = dict(SUBJECTS)
    for number in range(ORDINARY_TOYS):
        rng = Random(f"{SEED} {kind} {number}")  # noqa: S311
        toys[f"ordinary-{number}"] = toy_of(replace(sample_attributes(rng), kind=kind), rng)
    return toys


def views_of(toy: Toy, name: str) -> list[Image.Image]:
    """In random places."""
    rng = Random(f"{SEED} {name}")  # noqa: S311
    return [draw_scene(toy, rng.choice(PLACES), sample_view(rng), SIDE, rng)[0] for _ in range(VIEWS_OF_A_TOY)]


def draw_by_code(shots: Sequence[Shot], subject: str | None, variant: str = "") -> list[Image.Image]:
    """What a perfect model might draw: everything that the prompts leave open is drawn by lot."""
    return [_draw_one(shot, subject, Random(f"{variant} {shot}")) for shot in shots]  # noqa: S311


def _draw_one(shot: Shot, subject: str | None, rng: Random) -> Image.Image:
    attributes = sample_attributes(rng)
    while shot.colour is not None and attributes.colour != shot.colour:
        attributes = sample_attributes(rng)
    attributes = replace(attributes, kind=shot.kind, place=shot.place or attributes.place)
    toy = SUBJECTS[subject] if subject is not None and shot.role == "subject" else toy_of(attributes, rng)
    return draw_scene(toy, attributes.place, sample_view(rng), SIDE, rng)[0]
