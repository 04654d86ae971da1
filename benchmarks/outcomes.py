"""Judgements to measures: each a name, a value, and where one was promised, a bar that it holds or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any, Literal

from benchmarks.plan import NEW_PLACES, Role, Run, Shot
from toyworld.vocabulary import Colour, Kind, Place


@dataclass(frozen=True)
class Bar:
    sense: Literal["at least", "at most"]
    value: float

    def holds(self, value: float) -> bool:
        return value >= self.value if self.sense == "at least" else value <= self.value


BASE_BARS = {
    "class_accuracy": Bar("at least", 0.90),
    "colour_accuracy": Bar("at least", 0.85),
    "background_accuracy": Bar("at least", 0.95),
    "seconds_a_picture_in_batches": Bar("at most", 1.0),
    "seconds_a_picture_alone": Bar("at most", 1.0),
    "load_seconds": Bar("at most", 2.0),
}
PLAIN_BARS = {
    "training_seconds_max": Bar("at most", 90),
    "failed_trainings": Bar("at most", 0),
    "subject_recall": Bar("at least", 0.80),
    "subject_background_accuracy": Bar("at least", 0.85),
}
PRIOR_BARS = {
    "training_seconds_max": Bar("at most", 90),
    "failed_trainings": Bar("at most", 0),
    "class_kept": Bar("at least", 0.80),
    "unrelated_kept": Bar("at least", 0.85),
}
NO_BARS: Mapping[str, Bar] = {}


@dataclass(frozen=True)
class Judgement:
    """What the scorers see on one picture. toy, dino and clip_i: only where a subject was asked for."""

    kind: Kind
    colour: Colour
    place: Place
    clip_t: float
    toy: str | None = None  # the nearest of the gallery
    dino: float | None = None  # mean cosine to the subject's photos
    clip_i: float | None = None  # the same, as CLIP sees it


Judged = tuple[Shot, Judgement]


@dataclass(frozen=True)
class Trained:
    """A run of which all is known, or why it failed."""

    run: Run
    seconds: float = 0.0
    judged: Sequence[Judged] = ()
    failure: str | None = None


@dataclass(frozen=True)
class Measure:
    group: str
    name: str
    value: float
    count: int  # of pictures, or of whatever was averaged over
    bar: Bar | None = None

    @property
    def holds(self) -> bool | None:
        return None if self.bar is None else self.bar.holds(self.value)

    def as_record(self) -> dict[str, Any]:
        bar = {} if self.bar is None else {"bar": f"{self.bar.sense} {self.bar.value:g}", "holds": self.holds}
        return {"group": self.group, "name": self.name, "value": round(self.value, 4), "count": self.count} | bar


@dataclass
class Sheet:
    """Measures of one group in the making; what nothing is known of is left out."""

    group: str
    bars: Mapping[str, Bar]
    measures: list[Measure] = field(default_factory=list)

    def mean(self, name: str, values: Iterable[float | bool | None]) -> None:
        known = [float(value) for value in values if value is not None]
        if known:
            self.value(name, fmean(known), len(known))

    def value(self, name: str, value: float | None, count: int = 1) -> None:
        if value is not None:
            self.measures.append(Measure(self.group, name, value, count, self.bars.get(name)))


def of_role(judged: Iterable[Judged], *roles: Role) -> list[Judged]:
    return [(shot, seen) for shot, seen in judged if shot.role in roles]


def right_kind(one: Judged) -> bool:
    return one[1].kind == one[0].kind


def right_colour(one: Judged) -> bool:
    return one[1].colour == one[0].colour


def right_place(one: Judged) -> bool:
    return one[1].place == one[0].place


def is_subject(subject: str) -> Callable[[Judged], bool]:
    return lambda one: one[1].toy == subject


def is_kept(subject: str) -> Callable[[Judged], bool]:
    """Of the right kind, and not turned into the subject."""
    return lambda one: right_kind(one) and one[1].toy != subject


def base_measures(group: str, judged: Sequence[Judged], bars: Mapping[str, Bar]) -> list[Measure]:
    sheet = Sheet(group, bars)
    sheet.mean("class_accuracy", map(right_kind, judged))
    sheet.mean("colour_accuracy", map(right_colour, judged))
    sheet.mean("background_accuracy", map(right_place, judged))
    sheet.mean("clip_t", (seen.clip_t for _, seen in judged))
    return sheet.measures


def subject_scores(subject: str, judged: Sequence[Judged]) -> dict[str, list[float | bool | None]]:
    """One subject's pictures, measure by measure."""
    own, others, unrelated = of_role(judged, "subject"), of_role(judged, "class"), of_role(judged, "unrelated")
    new = [one for one in own if one[0].place in NEW_PLACES]
    return {
        "subject_recall": [*map(is_subject(subject), own)],
        "subject_recall_in_new_places": [*map(is_subject(subject), new)],
        "subject_background_accuracy": [*map(right_place, own)],
        "subject_class_accuracy": [*map(right_kind, own)],
        "dino": [seen.dino for _, seen in own],
        "clip_i": [seen.clip_i for _, seen in own],
        "clip_t": [seen.clip_t for _, seen in own],
        "class_kept": [*map(is_kept(subject), others)],
        "unrelated_kept": [*map(right_kind, unrelated)],
    }


def subject_measures(
    group: str, judged: Sequence[tuple[str, Sequence[Judged]]], bars: Mapping[str, Bar]
) -> list[Measure]:
    """Over the pictures of all subjects."""
    sheet = Sheet(group, bars)
    scores = [subject_scores(subject, pictures) for subject, pictures in judged]
    for name in scores[0] if scores else ():
        sheet.mean(name, (value for one in scores for value in one[name]))
    return sheet.measures


def training_measures(group: str, trained: Sequence[Trained]) -> list[Measure]:
    """Of all runs of one method, with or without the prior."""
    bars = PRIOR_BARS if group.endswith("+prior") else PLAIN_BARS
    done = [one for one in trained if one.failure is None]
    sheet = Sheet(group, bars)
    sheet.value("failed_trainings", len(trained) - len(done), len(trained))
    if not done:
        return sheet.measures
    sheet.value("training_seconds_max", max(one.seconds for one in done), len(done))
    sheet.mean("training_seconds_mean", (one.seconds for one in done))
    pictures = subject_measures(group, [(one.run.subject, one.judged) for one in done], bars)
    worst = min(recalls_by(done, lambda run: run.subject).values())
    sheet.value("worst_subject_recall", worst, len({one.run.subject for one in done}))
    by_seed = recalls_by(done, lambda run: str(run.seed))
    if len(by_seed) > 1:
        sheet.value("recall_deviation_between_seeds", pstdev(by_seed.values()), len(by_seed))
    return [*sheet.measures, *pictures]


def recalls_by(trained: Sequence[Trained], part_of: Callable[[Run], str]) -> dict[str, float]:
    """Subject recall of each part of the runs."""
    recalls: dict[str, list[bool]] = {}
    for one in trained:
        found = map(is_subject(one.run.subject), of_role(one.judged, "subject"))
        recalls.setdefault(part_of(one.run), []).extend(found)
    return {part: fmean(found) for part, found in recalls.items()}


def run_record(trained: Trained) -> dict[str, Any]:
    """One run in the report."""
    run = trained.run
    record: dict[str, Any] = {"subject": run.subject, "group": run.group, "seed": run.seed}
    if trained.failure is not None:
        return record | {"failure": trained.failure}
    scores = subject_scores(run.subject, trained.judged).items()
    known = {name: [float(value) for value in values if value is not None] for name, values in scores}
    means = {name: round(fmean(values), 4) for name, values in known.items() if values}
    return record | {"training_seconds": trained.seconds} | means
