"""One process for each GPU. Light: no torch here, so that a job with one GPU loses no time."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

PROCESSES_VARIABLE = "TRAINING_PROCESSES"  # instead of the number of GPUs
POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0  # between the first failure and the end of those that wait for the failed one

logger = logging.getLogger("training")


def processes_wanted() -> int:
    """One a GPU; 1 in a process that a launcher started."""
    if "RANK" in os.environ:
        return 1
    gpus = [path for path in Path("/dev").glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit()]
    return int(os.environ.get(PROCESSES_VARIABLE) or max(1, len(gpus)))


def launch(count: int) -> int:
    """Runs the program in `count` processes. Returns the exit code: 0 when all succeeded, else the first failure's."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(count)}
    command = [sys.executable, "-m", "training_container", "train"]
    processes = [
        subprocess.Popen(command, env={**os.environ, **address, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    logger.info("training in %d processes", count)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    try:
        return _wait(processes)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    """The others of a failed process may wait for it for ever, so they get a moment and no more."""
    failed_at: float | None = None
    failure = 0
    while any(process.poll() is None for process in processes):
        codes = [process.poll() for process in processes]
        if failed_at is None and any(codes):
            failure = next(code for code in codes if code)
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > GRACE_SECONDS:
            return failure
        time.sleep(POLL_SECONDS)
    return failure or next((process.returncode for process in processes if process.returncode), 0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
