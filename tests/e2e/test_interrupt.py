"""Ctrl-C ends the demo at once, wherever it is, and leaves no process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dreamdrop.up import free_port
from tests.e2e.conftest import until
from tests.synthesized import PROJECT

pytestmark = pytest.mark.e2e


def processes_of(folder: Path) -> list[str]:
    """Command lines of all processes that were started on this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in told and int(process.name) != os.getpid():
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.mark.parametrize("line", ["Starting the local cloud", "4. training ...", "7. hosting ..."])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, line: str) -> None:
    out = tmp_path / "demo"
    demo = subprocess.Popen(
        [sys.executable, "-u", "-m", "dreamdrop.cli", "demo", "--out", str(out), "--port", str(free_port(0))],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert demo.stdout is not None
    for said in demo.stdout:
        if line in said:
            break
    else:
        pytest.fail(f"the demo never said {line!r}")
    began = time.monotonic()
    demo.send_signal(signal.SIGINT)
    demo.stdout.read()
    assert demo.wait(timeout=20) == 130
    assert time.monotonic() - began < 10
    until("no process of the demo is left", lambda: processes_of(out) == [], 5)
