"""Resident memory of processes, from /proc where there is one and from ps elsewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path


def peak_rss_bytes(pid: int) -> int:
    """The most memory that the process has held so far; what it holds now without /proc; 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return _processes().get(pid, (0, 0))[1]
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def tree_pids(root: int) -> list[int]:
    """The process and all its descendants, parents first."""
    parents = {pid: parent for pid, (parent, _) in _processes().items()}
    found = [root] if root in parents else []
    for pid in found:  # grows while it is walked
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def tree_rss_bytes(root: int) -> int:
    """Resident memory of the process and all its descendants together."""
    processes = _processes()
    return sum(processes[pid][1] for pid in tree_pids(root) if pid in processes)


def _processes() -> dict[int, tuple[int, int]]:
    """pid -> (parent's pid, resident bytes), of every process that is not a zombie."""
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,rss=,stat="], capture_output=True, text=True, check=True
    ).stdout
    rows = (line.split(maxsplit=3) for line in listing.splitlines())
    return {int(pid): (int(parent), int(rss) * 1024) for pid, parent, rss, stat in rows if not stat.startswith("Z")}
