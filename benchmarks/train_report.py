"""Timings of both sides as rows: ours, the reference's, their ratio, and whether it clears the bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.outcomes import Bar
from benchmarks.tables import aligned, bar_cells, verdict
from benchmarks.train_plan import MEMORY, PROCESSOR, SPEED, START, Case, share_of_floor
from benchmarks.train_runs import Side, Timing, best_of, record_of

FLOOR = "share of the floor"
HEADINGS = ("case", "measure", "ours", "reference", "ratio", "bar", "holds")

Measured = Mapping[Side, Sequence[Timing]]


@dataclass(frozen=True)
class Row:
    case: str
    measure: str
    ours: float
    reference: float
    bar: Bar | None = None

    @property
    def ratio(self) -> float:
        return self.ours / self.reference

    @property
    def holds(self) -> bool | None:
        return None if self.bar is None else self.bar.holds(self.ratio)


def rows_of(case: Case, measured: Measured, gpu: str) -> list[Row]:
    ours, reference = best_of(measured["ours"]), best_of(measured["reference"])
    values = {
        SPEED: (ours.steps_a_second, reference.steps_a_second),
        PROCESSOR: (ours.processor_seconds, reference.processor_seconds),
        START: (ours.first_step_seconds, reference.first_step_seconds),
        MEMORY: (ours.peak_mib, reference.peak_mib),
    }
    rows = [Row(case.name, measure, *pair, case.bars.get(measure)) for measure, pair in values.items()]
    shares = [share_of_floor(case, one.steps_a_second, gpu) for one in (ours, reference)]
    if shares[0] is not None and shares[1] is not None:
        rows.append(Row(case.name, FLOOR, shares[0], shares[1]))
    return rows


def table(rows: Sequence[Row]) -> str:
    missed = [f"{row.case}: {row.measure}" for row in rows if row.holds is False]
    return "\n".join([*aligned([HEADINGS, *map(_cells, rows)]), "", verdict(missed)])


def _cells(row: Row) -> tuple[str, ...]:
    figures = (f"{row.ours:.3g}", f"{row.reference:.3g}", f"{row.ratio:.2f}")
    return (row.case, row.measure, *figures, *bar_cells(row.bar, row.holds))


def record(case: Case, measured: Measured, rows: Sequence[Row]) -> dict[str, Any]:
    """For the repository."""
    return {
        "model": case.model,
        "settings": case.settings.model_dump(exclude_unset=True),
        **{side: record_of(timings) for side, timings in measured.items()},
        "ratios": {row.measure: round(row.ratio, 3) for row in rows},
        "bars": {row.measure: {"bar": [row.bar.sense, row.bar.value], "holds": row.holds} for row in rows if row.bar},
    }
