"""How long it will still take, told after every unit of work."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from statistics import fmean


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Pace:
    """Units of several sorts; a sort that nothing is known of yet is thought to take as long as the others."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    def note(self, sort: str, seconds: float) -> None:
        self._seconds.setdefault(sort, []).append(seconds)

    def left(self, sorts: Sequence[str]) -> float | None:
        """Seconds for units of these sorts; None before the first is done."""
        if not self._seconds:
            return None
        usual = {sort: fmean(seconds) for sort, seconds in self._seconds.items()}
        return sum(usual.get(sort, fmean(usual.values())) for sort in sorts)


def told(seconds: float | None) -> str:
    """'1 h 05 min left'."""
    if seconds is None:
        return "time left unknown"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min left" if minutes >= 60 else f"{minutes} min left"
