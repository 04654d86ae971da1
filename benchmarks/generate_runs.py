"""One model's measurements: every side is asked the same, in turns, and what it took is noted."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import get_args

import numpy as np
from PIL import Image

from benchmarks.generate_plan import (
    FIRST,
    GPU_MEMORY,
    GPU_MEMORY_OF_MANY,
    MEMORY,
    MEMORY_OF_ALL,
    PICTURE,
    PROCESSOR,
    START,
    WAITING,
    Asker,
    Case,
    Side,
    cold,
    cold_inside,
    picture_of,
    switch_inside,
    switch_to,
    waiting,
)
from benchmarks.generate_sides import (
    MEBIBYTE,
    REPOSITORY,
    Place,
    Running,
    SideFailed,
    classic,
    end_of,
    our_server,
    peak_mib_of,
    pipeline,
    processor_seconds_of,
)
from benchmarks.progress import say
from contracts.generation import Scheduler
from contracts.training import Method

OPENERS: Mapping[Side, Callable[[Place], AbstractContextManager[Running]]] = {
    "ours": our_server,
    "pipeline": pipeline,
    "classic": classic,
}
PAIR: tuple[Side, ...] = ("ours", "pipeline")

Samples = Mapping[str, Mapping[Side, Sequence[float]]]  # by measure
Differences = Mapping[str, Mapping[Scheduler, int]]  # by what was drawn


@dataclass(frozen=True)
class Effort:
    """How often each thing is measured."""

    pictures: int
    repeats: int  # starts of a process

    @property
    def rounds(self) -> int:
        """Of what takes many pictures."""
        return max(1, self.pictures // 5)


@dataclass
class Notes:
    samples: dict[str, dict[Side, list[float]]] = field(default_factory=dict)

    def note(self, measure: str, side: Side, *values: float) -> None:
        self.samples.setdefault(measure, {}).setdefault(side, []).extend(round(value, 6) for value in values)


def measure(case: Case, place: Place, effort: Effort) -> Samples:
    notes, asker = Notes(), Asker(case)
    time_starts(notes, asker, place, effort.repeats)
    with ExitStack() as processes:
        running = {side: processes.enter_context(open_side(side, place)) for side in PAIR}
        time_pictures(notes, asker, running, effort)
        running["classic"] = processes.enter_context(open_side("classic", place))
        for method in get_args(Method):
            names = [subject.name for subject in place.subjects if subject.method == method]
            time_subjects(notes, asker, running, method, names, effort.rounds)
        for side, one in running.items():
            notes.note(MEMORY_OF_ALL, side, peak_mib_of(one))
    look_inside(notes, asker, place, effort.rounds)
    for name, sides in notes.samples.items():
        say(f"{case.model}, {name}: " + ", ".join(f"{side} {median(values):.3g}" for side, values in sides.items()))
    return notes.samples


def open_side(side: Side, place: Place) -> AbstractContextManager[Running]:
    return OPENERS[side](replace(place, folder=place.folder / side))


def in_turns(sides: Iterable[Side], number: int) -> list[Side]:
    """Who is asked first changes, so that it gains nobody anything."""
    order = list(sides)
    return order if number % 2 == 0 else order[::-1]


def time_starts(notes: Notes, asker: Asker, place: Place, repeats: int) -> None:
    """Each process alone on the machine."""
    for number in range(repeats):
        request = asker.next()
        for side in in_turns(PAIR, number):
            with open_side(side, place) as running:
                notes.note(START, side, running.ready_seconds)
                notes.note(FIRST, side, running.draw([request]).seconds)


def time_pictures(notes: Notes, asker: Asker, running: Mapping[Side, Running], effort: Effort) -> None:
    """The base model's, picture by picture and several at once; the first of each side is not counted."""
    request = asker.next()
    for one in running.values():
        one.draw([request])
    processor: dict[Side, list[float]] = {side: [] for side in running}
    for number in range(effort.pictures):
        request = asker.next()
        for side in in_turns(running, number):
            before = processor_seconds_of(running[side])
            seconds = running[side].draw([request]).seconds
            processor[side].append(processor_seconds_of(running[side]) - before)
            notes.note(PICTURE, side, seconds)
            notes.note(waiting(1), side, 1 / seconds)
    for side, spent in processor.items():
        notes.note(PROCESSOR, side, fmean(spent))  # single ones are told too coarsely
    for many in WAITING:
        for number in range(effort.rounds):
            requests = [asker.next() for _ in range(many)]
            for side in in_turns(running, number):
                notes.note(waiting(many), side, many / running[side].draw(requests).seconds)
    for side, one in running.items():
        notes.note(MEMORY, side, peak_mib_of(one))
    peak = running["pipeline"].draw([asker.next()]).gpu_peak_bytes
    if peak:
        for name in (GPU_MEMORY, GPU_MEMORY_OF_MANY):  # it draws one after the other
            notes.note(name, "pipeline", peak / MEBIBYTE)


def time_subjects(
    notes: Notes,
    asker: Asker,
    running: Mapping[Side, Running],
    method: Method,
    names: Sequence[str],
    rounds: int,
) -> None:
    """All of them once, then in turns, each twice in a row: the first of the two has been switched to."""
    first: dict[Side, list[float]] = {side: [] for side in running}
    switched: dict[Side, list[float]] = {side: [] for side in running}
    for number, name in enumerate(names):
        request = asker.next(name)
        for side in in_turns(running, number):
            drawn = running[side].draw([request])
            first[side].append(drawn.seconds)
            notes.note(cold_inside(method), side, *drawn.select_seconds)
    for number in range(rounds):
        for name in names:
            switch, stay = asker.next(name), asker.next(name)
            for side in in_turns(running, number):
                drawn = running[side].draw([switch])
                switched[side].append(drawn.seconds)
                notes.note(switch_inside(method), side, *drawn.select_seconds)
                notes.note(picture_of(method), side, running[side].draw([stay]).seconds)
    for side in running:
        usual = median(notes.samples[picture_of(method)][side])
        notes.note(cold(method), side, *(seconds - usual for seconds in first[side]))
        notes.note(switch_to(method), side, *(seconds - usual for seconds in switched[side]))


def look_inside(notes: Notes, asker: Asker, place: Place, rounds: int) -> None:
    """What our server does not tell, from a process that uses its modules."""
    out, log = place.folder / "inside.json", place.folder / "inside.log"
    asked = {
        "base": str(place.base_model.resolve()),
        "cache": str(place.folder.resolve() / "inside"),
        "subjects": {
            method: [one.name for one in place.subjects if one.method == method] for method in get_args(Method)
        },
        "rounds": rounds,
        "payloads": [asker.next().to_payload().model_dump(exclude_unset=True) for _ in range(max(WAITING))],
    }
    with log.open("w", encoding="utf-8") as written:
        finished = subprocess.run(
            [sys.executable, "-m", "benchmarks.generate_inside", str(out), json.dumps(asked)],
            cwd=REPOSITORY,
            env=place.environment(),
            stdout=written,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if finished.returncode:
        raise SideFailed(end_of(log))
    found = json.loads(out.read_text(encoding="utf-8"))
    for method in get_args(Method):
        notes.note(cold_inside(method), "ours", *found["select"][method]["cold"])
        notes.note(switch_inside(method), "ours", *found["select"][method]["warm"])
    for name, peak in zip((GPU_MEMORY, GPU_MEMORY_OF_MANY), found["gpu_peak_bytes"], strict=False):
        notes.note(name, "ours", peak / MEBIBYTE)


def compare_pictures(case: Case, place: Place) -> Differences:
    """Ours against the pipeline's: the base model's, an adapter's and a full model's, by every scheduler."""
    asker = Asker(case)
    drawn = {"base": None} | {one.method: one.name for one in place.subjects}
    differences: dict[str, dict[Scheduler, int]] = {kind: {} for kind in drawn}
    with ExitStack() as processes:
        running = {side: processes.enter_context(open_side(side, place)) for side in PAIR}
        for kind, subject in drawn.items():
            for scheduler in get_args(Scheduler):
                request = asker.next(subject, scheduler)
                [ours], [theirs] = (running[side].draw([request]).pictures for side in PAIR)
                differences[kind][scheduler] = greatest_difference(ours, theirs)
    return differences


def greatest_difference(one: bytes, other: bytes) -> int:
    """Of all pixels and colours of two files, in 255ths."""
    pixels = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), dtype=np.int16) for file in (one, other)]
    return int(np.abs(pixels[0] - pixels[1]).max())
