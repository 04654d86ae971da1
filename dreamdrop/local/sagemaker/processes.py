"""Container programs as processes: own process group, clean environment, log file, SIGTERM then SIGKILL."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from dreamdrop.local.images import ContainerCommand
from dreamdrop.local.sagemaker.errors import ClientFailure, EngineStopped

BASE_DIRECTORY = "SAGEMAKER_BASE_DIR"
SIGNAL_EXIT_CODES = 128  # docker reports death by signal N as exit code 128 + N

# A container sees nothing of its host; these describe the machine, not the developer.
_FROM_THE_HOST = (
    "PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "VIRTUAL_ENV",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip


class ContainerProcess:
    """One started program and everything that it starts."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self._lock = threading.Lock()
        self._ended = False

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self.wait(0) is None

    def wait(self, seconds: float) -> int | None:
        """The exit code, or None if the program still runs after that time. What it started dies with it."""
        try:
            code = self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        with self._lock:
            if not self._ended:  # once only: the number of the group may be given to another later
                self._ended = True
                self._kill_group(signal.SIGKILL)
        return code if code >= 0 else SIGNAL_EXIT_CODES - code

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def stop(self, grace_seconds: float) -> None:
        """SIGTERM, then SIGKILL after the grace period. Returns when the process is gone."""
        self.terminate()
        if self.wait(grace_seconds) is None:
            self._signal(signal.SIGKILL)
            while self.wait(1) is None:
                pass

    def _signal(self, number: signal.Signals) -> None:
        if self.wait(0) is None:
            self._kill_group(number)

    def _kill_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            os.killpg(self._popen.pid, number)


class ProcessTable:
    """Every process of the engine, so that none survives it. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._directory.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._processes: dict[int, ContainerProcess] = {}
        self._closed = False

    def start(
        self, command: ContainerCommand, verb: str, base: Path, environment: dict[str, str], log: Path
    ) -> ContainerProcess:
        """Raises ClientFailure when the program cannot be started, EngineStopped after `stop_all`."""
        host = {name: os.environ[name] for name in _FROM_THE_HOST if name in os.environ}
        # Two programs that each use every core get in each other's way, and take ten times as long.
        variables = {"OMP_NUM_THREADS": "1", **host, **command.env, **environment, BASE_DIRECTORY: str(base)}
        with self._lock:
            if self._closed:
                raise EngineStopped
            try:
                with log.open("ab") as output:
                    popen = subprocess.Popen(
                        [*command.argv, verb],
                        cwd=command.cwd,
                        env=variables,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
            except OSError as error:
                raise ClientFailure(f"The container cannot be started: {error}") from error
            process = ContainerProcess(popen)
            self._processes[popen.pid] = process
            self._note(popen.pid).write_text(json.dumps({"base": str(base)}))
            return process

    def forget(self, process: ContainerProcess) -> None:
        with self._lock:
            self._processes.pop(process.pid, None)
            self._note(process.pid).unlink(missing_ok=True)

    def stop_all(self, grace_seconds: float) -> None:
        """Ends every process, all at once; none can be started afterwards."""
        with self._lock:
            self._closed = True
            processes = list(self._processes.values())
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + grace_seconds
        for process in processes:
            process.stop(max(deadline - time.monotonic(), 0))
            self.forget(process)

    def kill_leftovers(self) -> None:
        """Ends what an engine that was itself killed left behind; known by its base directory, where /proc exists."""
        for note in self._directory.glob("*.json"):
            pid, base = int(note.stem), json.loads(note.read_text())["base"]
            with contextlib.suppress(OSError):
                if f"{BASE_DIRECTORY}={base}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    os.killpg(pid, signal.SIGKILL)
            note.unlink(missing_ok=True)

    def _note(self, pid: int) -> Path:
        return self._directory / f"{pid}.json"
