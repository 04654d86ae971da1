"""Where a measurement was taken, and what a process used there."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Device = Literal["cpu", "cuda"]

LIBRARIES = ("torch", "diffusers", "transformers", "peft")
CPU_INFO = Path("/proc/cpuinfo")


def machine() -> dict[str, Any]:
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
        "libraries": versions(LIBRARIES),
    }


def gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for library in libraries:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def peak_resident(status: str) -> int:
    """Bytes, of the contents of /proc/PID/status; getrusage would count what the parent held when it forked."""
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def processor_seconds(stat: str) -> float:
    """Used so far by all threads, of the contents of /proc/PID/stat; hardly changed by what else the machine does."""
    after_the_name = stat.rpartition(")")[2].split()
    return (int(after_the_name[11]) + int(after_the_name[12])) / os.sysconf("SC_CLK_TCK")


def beside_others(out: Path, device: Device, found: dict[str, Any]) -> dict[str, Any]:
    """What was measured on the other kind of device stays."""
    known: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    return known | {device: found}


def _commit() -> str | None:
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def _cpu_model(cpu_info: str) -> str:
    names = [line.partition(":")[2].strip() for line in cpu_info.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
