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

from contracts.errors import DreamdropError, TrainingCrashed, TrainingKilled, TrainingStopped
from training_container.platform import Platform

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


def launch(count: int, platform: Platform) -> int:
    """Runs the program in `count` processes. Returns the exit code: 0 when all succeeded, else 1.

    A process that a signal ended has told nobody why: then the launcher does.
    """
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(count)}
    command = [sys.executable, "-m", "training_container", "train"]
    processes: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _frame: FrameType | None = None) -> None:
        platform.stop_requested = True
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    try:
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            processes.append(subprocess.Popen(command, env={**os.environ, **address, **own}))
        if platform.stop_requested:  # those that were not there yet when the signal came
            pass_on(signal.SIGTERM)
        logger.info("training in %d processes", count)
        code = _wait(processes)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    if code:
        platform.report_failure(_failure_of(code, stopped=platform.stop_requested))
    return 1 if code else 0


def _failure_of(code: int, *, stopped: bool) -> DreamdropError:
    """For a process that has left no failure of its own."""
    if stopped:
        return TrainingStopped("The training job was stopped before it was done.")
    if code == -signal.SIGKILL:
        return TrainingKilled("A training process was killed, most likely for the host's memory.")
    return TrainingCrashed(f"A training process ended with exit code {code} and did not say why.")


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
