"""The results as a table for people and as JSON for the repository."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.outcomes import Measure
from benchmarks.records import Record
from benchmarks.results import Results

LIBRARIES = ("torch", "diffusers", "transformers", "peft")
CPU_INFO = Path("/proc/cpuinfo")
HEADINGS = ("group", "measure", "value", "bar", "holds", "of")


def machine() -> Record:
    """Where and when; the load tells whether others slowed the timings."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "cpu": _cpu_model(CPU_INFO.read_text(encoding="utf-8") if CPU_INFO.is_file() else ""),
        "cores": os.cpu_count(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def _commit() -> str | None:
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def _cpu_model(cpu_info: str) -> str:
    names = [line.partition(":")[2].strip() for line in cpu_info.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def table(results: Results) -> str:
    rows = [HEADINGS, *map(_row, results.measures)]
    lines = _aligned(rows)
    broken = [f"{one.group} {one.name}" for one in results.measures if one.holds is False]
    lines.append("")
    lines.append(f"{results.units_done} of {results.units} units done" + ("" if results.complete else ": not complete"))
    lines.append("every bar holds" if not broken else f"bars that do not hold: {', '.join(broken)}")
    lines += [f"{one.run.folder} failed: {one.failure}" for one in results.trained if one.failure is not None]
    return "\n".join(lines)


def _row(measure: Measure) -> tuple[str, ...]:
    bar = "" if measure.bar is None else f"{measure.bar.sense} {measure.bar.value:g}"
    holds = {None: "", True: "yes", False: "NO"}[measure.holds]
    return (measure.group, measure.name, f"{measure.value:.3f}", bar, holds, str(measure.count))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
