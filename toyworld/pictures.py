"""Drawn pictures by the thousand, with all that is known of them; drawn once and kept on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from toyworld.captions import caption
from toyworld.scenes import (
    Attributes,
    Toy,
    draw_scene,
    sample_attributes,
    sample_odd_toy,
    sample_view,
    toy_of,
)
from toyworld.vocabulary import COLOURS, KINDS, PATTERNS, PLACES

SIDE = 64  # pixels
CHUNK = 500
HELD_OUT_PART = 10  # one combination of kind, colour and place in so many is never trained on
VIEWS = 3  # of each odd toy

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Album:
    """N pictures. labels: kind, colour, pattern, place as indices; toy: which pictures show the same one."""

    pictures: Bytes  # (N, side, side, 3)
    masks: Bytes  # (N, side, side): how much of each pixel is toy
    labels: NDArray[np.int64]  # (N, 4)
    toys: NDArray[np.int64]  # (N,)
    captions: list[str]

    def __len__(self) -> int:
        return len(self.pictures)


Drawn = tuple[Bytes, Bytes, tuple[int, int, int, int], int, str]


def is_held_out(attributes: Attributes) -> bool:
    """About a tenth of the combinations of kind, colour and place; each kind, colour and place is in many others."""
    number = (
        7 * KINDS.index(attributes.kind)
        + 3 * list(COLOURS).index(attributes.colour)
        + 5 * PLACES.index(attributes.place)
        + KINDS.index(attributes.kind) // 4
    )
    return number % HELD_OUT_PART == 0


def sample_of(held_out: bool, rng: Random) -> Attributes:
    while True:
        attributes = sample_attributes(rng)
        if is_held_out(attributes) is held_out:
            return attributes


def ordinary_pictures(seed: int, held_out: bool, count: int, first: int) -> list[Drawn]:
    rng = Random(f"ordinary {seed} {first}")  # noqa: S311
    drawn = []
    for number in range(first, first + count):
        attributes = sample_of(held_out, rng)
        drawn.append(_draw(toy_of(attributes, rng), attributes, number, caption(attributes, rng), rng))
    return drawn


def odd_pictures(seed: int, count: int, first: int) -> list[Drawn]:
    """Three views in a row of each toy."""
    rng = Random(f"odd {seed} {first}")  # noqa: S311
    drawn = []
    for number in range(first, first + count, VIEWS):
        toy = sample_odd_toy(rng)
        views = range(min(VIEWS, first + count - number))
        drawn += [_draw(toy, sample_attributes(rng), number // VIEWS, "", rng) for _ in views]
    return drawn


def _draw(toy: Toy, attributes: Attributes, identity: int, text: str, rng: Random) -> Drawn:
    picture, mask = draw_scene(toy, attributes.place, sample_view(rng), SIDE, rng)
    labels = (
        KINDS.index(toy.kind),
        list(COLOURS).index(attributes.colour),
        PATTERNS.index(attributes.pattern),
        PLACES.index(attributes.place),
    )
    return np.asarray(picture), np.asarray(mask), labels, identity, text


def draw_album(draw: Callable[[int, int], list[Drawn]], total: int) -> Album:
    """draw(count, first) is called for chunks, in as many processes as there are cores."""
    firsts = range(0, total, CHUNK)
    counts = [min(CHUNK, total - first) for first in firsts]
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        drawn = [item for chunk in pool.map(draw, counts, firsts) for item in chunk]
    return Album(
        pictures=np.stack([item[0] for item in drawn]),
        masks=np.stack([item[1] for item in drawn]),
        labels=np.array([item[2] for item in drawn]),
        toys=np.array([item[3] for item in drawn]),
        captions=[item[4] for item in drawn],
    )


def ordinary_album(seed: int, total: int, *, held_out: bool = False) -> Album:
    return draw_album(partial(ordinary_pictures, seed, held_out), total)


def odd_album(seed: int, total: int) -> Album:
    return draw_album(partial(odd_pictures, seed), total)


def keep(directory: Path, draw: Callable[[], Album]) -> Album:
    """Reads the album from disk, or draws and writes it; the captions, written last, say that it is whole."""
    captions = directory / "captions.json"
    arrays = ("pictures", "masks", "labels", "toys")
    if not captions.is_file():
        album = draw()
        directory.mkdir(parents=True, exist_ok=True)
        for name in arrays:
            np.save(directory / f"{name}.npy", getattr(album, name))
        captions.write_text(json.dumps(album.captions), encoding="utf-8")
    loaded = {name: np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in arrays}
    return Album(captions=json.loads(captions.read_text(encoding="utf-8")), **loaded)
