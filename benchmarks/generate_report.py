"""What all sides took, as rows: ours, its peers', their ratio, and whether it clears the bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, get_args

from benchmarks.generate_plan import (
    FIRST,
    MOST_NOISE,
    ON_OURS,
    PICTURE,
    SHARE,
    START,
    Case,
    Side,
    switch_inside,
)
from benchmarks.generate_runs import Differences, Samples
from benchmarks.outcomes import Bar
from benchmarks.tables import UNTOLD, aligned, bar_cells, verdict
from contracts.generation import Scheduler

HEADINGS = ("model", "measure", *get_args(Side), "ratio", "bar", "holds")


@dataclass(frozen=True)
class Row:
    model: str
    measure: str
    figures: Mapping[Side, float]
    bar: Bar | None = None

    @property
    def ratio(self) -> float | None:
        """Ours divided by the pipeline's; None where that says nothing, as of differences that noise made negative."""
        ours, pipeline = self.figures.get("ours"), self.figures.get("pipeline")
        return ours / pipeline if ours and pipeline and min(ours, pipeline) > 0 else None

    @property
    def holds(self) -> bool | None:
        judged = self.figures.get("ours") if self.measure in ON_OURS else self.ratio
        return None if self.bar is None or judged is None else self.bar.holds(judged)


def rows_of(case: Case, samples: Samples) -> list[Row]:
    measured = {measure: figures_of(measure, of_sides) for measure, of_sides in samples.items()}
    switch = measured[switch_inside("lora")]
    measured[SHARE] = {side: switch[side] / seconds for side, seconds in measured[PICTURE].items()}
    bars = allowing_for_noise(case.bars, noise_of(samples))
    return [Row(case.model, name, figures, bars.get(name)) for name, figures in measured.items()]


def figures_of(measure: str, of_sides: Mapping[Side, Sequence[float]]) -> dict[Side, float]:
    """Of starts the least disturbed: other programs can only slow one down. Of all else the middle one."""
    best = min if measure in (START, FIRST) else median
    return {side: best(values) for side, values in of_sides.items()}


def noise_of(samples: Samples) -> float:
    """The pipeline measured against itself, every second picture against the others; 0 if there are too few."""
    pictures = samples[PICTURE]["pipeline"]
    return abs(median(pictures[::2]) / median(pictures[1::2]) - 1) if len(pictures) > 1 else 0.0


def allowing_for_noise(bars: Mapping[str, Bar], noise: float) -> dict[str, Bar]:
    """'Never slower' can be told only as exactly as the machine lets one measure."""
    allowed = min(noise, MOST_NOISE)
    return {
        name: Bar(bar.sense, round(bar.value + allowed, 3)) if name == PICTURE else bar for name, bar in bars.items()
    }


def table(rows: Sequence[Row]) -> str:
    return "\n".join(aligned([HEADINGS, *map(_cells, rows)]))


def _cells(row: Row) -> tuple[str, ...]:
    figures = [f"{row.figures[side]:.3g}" if side in row.figures else UNTOLD for side in get_args(Side)]
    ratio = UNTOLD if row.ratio is None else f"{row.ratio:.2f}"
    return (row.model, row.measure, *figures, ratio, *bar_cells(row.bar, row.holds))


def parity_table(differences: Differences) -> str:
    rows = [(name, *(str(kind[name]) for kind in differences.values())) for name in get_args(Scheduler)]
    return "\n".join(aligned([("difference in 255ths", *differences), *rows]))


def summary(rows: Sequence[Row], differences: Differences, parity_bar: Bar | None) -> str:
    missed = [f"{row.model}: {row.measure}" for row in rows if row.holds is False]
    if parity_bar is not None:
        missed += [f"parity of {kind}, {name}" for kind, name in beyond(differences, parity_bar)]
    return verdict(missed)


def beyond(differences: Differences, bar: Bar) -> list[tuple[str, Scheduler]]:
    return [
        (kind, name)
        for kind, by_scheduler in differences.items()
        for name, found in by_scheduler.items()
        if not bar.holds(found)
    ]


def record(case: Case, samples: Samples, rows: Sequence[Row]) -> dict[str, Any]:
    """For the repository."""
    return {
        "side": case.side,
        "sampling": asdict(case.sampling),
        "noise": round(noise_of(samples), 4),
        "figures": {row.measure: {side: round(value, 5) for side, value in row.figures.items()} for row in rows},
        "ratios": {row.measure: round(row.ratio, 3) for row in rows if row.ratio is not None},
        "bars": {row.measure: {"bar": [row.bar.sense, row.bar.value], "holds": row.holds} for row in rows if row.bar},
        "samples": {name: {side: list(values) for side, values in sides.items()} for name, sides in samples.items()},
    }


def parity_record(case: Case, differences: Differences, bar: Bar | None) -> dict[str, Any]:
    judged = {} if bar is None else {"bar": [bar.sense, bar.value], "holds": not beyond(differences, bar)}
    return {
        "model": case.model,
        "side": case.side,
        "num_inference_steps": case.sampling.num_inference_steps,
        "differences_in_255ths": {kind: dict(found) for kind, found in differences.items()},
        **judged,
    }
