"""Text in columns, and what is said of bars in every table."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.outcomes import Bar

UNTOLD = ""  # a cell that has nothing to say


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def bar_cells(bar: Bar | None, holds: bool | None) -> tuple[str, str]:
    told = UNTOLD if bar is None else f"{bar.sense} {bar.value:g}"
    return told, {None: UNTOLD, True: "yes", False: "NO"}[holds]


def verdict(missed: Sequence[str]) -> str:
    return f"bars that do not hold: {'; '.join(missed)}" if missed else "every bar holds"
