"""The results as a table for people."""

from __future__ import annotations

from benchmarks.outcomes import Measure
from benchmarks.results import Results
from benchmarks.tables import aligned, bar_cells, verdict

HEADINGS = ("group", "measure", "value", "bar", "holds", "of")


def table(results: Results) -> str:
    rows = [HEADINGS, *map(_row, results.measures)]
    lines = aligned(rows)
    broken = [f"{one.group} {one.name}" for one in results.measures if one.holds is False]
    lines.append("")
    lines.append(f"{results.units_done} of {results.units} units done" + ("" if results.complete else ": not complete"))
    lines.append(verdict(broken))
    lines += [f"{one.run.folder} failed: {one.failure}" for one in results.trained if one.failure is not None]
    return "\n".join(lines)


def _row(measure: Measure) -> tuple[str, ...]:
    bar, holds = bar_cells(measure.bar, measure.holds)
    return (measure.group, measure.name, f"{measure.value:.3f}", bar, holds, str(measure.count))
