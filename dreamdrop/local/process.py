"""The local cloud as a process of its own: started, watched and stopped by the command line, the demo and the tests."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import dreamdrop
from dreamdrop.deployment import Deployment
from dreamdrop.local import record
from dreamdrop.local.errors import LocalCloudError
from dreamdrop.local.memory import tree_pids, tree_rss_bytes
from dreamdrop.local.record import CloudRecord
from dreamdrop.local.settings import DEFAULT_PORT

START_SECONDS = 180.0
STOP_SECONDS = 20.0
_LOG_TAIL = 2000
_POLL_SECONDS = 0.05
_PROJECT = Path(dreamdrop.__file__).parents[1]


@dataclass
class LocalCloudProcess:
    process: subprocess.Popen[bytes]
    state: Path
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def deployment(self) -> Deployment:
        return Deployment.local(self.state / "outputs.json")

    def rss_bytes(self) -> int:
        """Resident memory of the cloud and everything that it runs: functions, training jobs, endpoints."""
        return tree_rss_bytes(self.process.pid)

    def stop(self) -> None:
        """Ends the cloud and its processes; what it stores stays. May be called twice."""
        if self.process.poll() is None:
            _terminate(self.process.pid, lambda: self.process.poll() is not None)
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(
    cdk_out: Path,
    state: Path,
    port: int = DEFAULT_PORT,
    auth: bool = False,
    log: Path | None = None,
    detached: bool = False,
    deploy: bool = True,
    decisions: Path | None = None,
    options: Sequence[str] = (),
) -> LocalCloudProcess:
    """Starts a local cloud and returns when everything is deployed. It ends with this process unless `detached`.

    `options`: further arguments of `python -m dreamdrop.local`.

    Raises LocalCloudError with the end of its log when it dies or does not come up in START_SECONDS.
    """
    state.mkdir(parents=True, exist_ok=True)
    log = log or state / "cloud.log"
    command = [sys.executable, "-m", "dreamdrop.local", "--cdk-out", str(cdk_out.resolve())]
    command += ["--state", str(state.resolve()), "--port", str(port)]
    command += [] if deploy else ["--no-deploy"]
    command += ["--decisions", str(decisions.resolve())] if decisions else []
    command += [] if detached else ["--parent-pid", str(os.getpid())]
    command += options
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=_PROJECT,
            env={**os.environ, "AUTH": "true" if auth else "false"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    cloud = LocalCloudProcess(process, state, log)
    try:
        _wait_until_ready(cloud)
    except BaseException:
        cloud.stop()
        raise
    return cloud


def _wait_until_ready(cloud: LocalCloudProcess) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        known = CloudRecord.read(cloud.state)
        if known and known.pid == cloud.pid and known.phase == "ready":
            return
        if cloud.process.poll() is not None:
            raise LocalCloudError(f"The local cloud did not start: {_tail(cloud.log)}", f"The whole log: {cloud.log}")
        if time.monotonic() > end:
            raise LocalCloudError(
                f"The local cloud is not up after {START_SECONDS:.0f} s: {_tail(cloud.log)}",
                f"The whole log: {cloud.log}",
            )
        time.sleep(_POLL_SECONDS)


def status(state: Path) -> CloudRecord | None:
    """The cloud that is up (or coming up) on this state folder; None if there is none."""
    known = CloudRecord.read(state)
    return known if known and _is_a_cloud(known.pid) else None


def down(state: Path) -> bool:
    """Ends the cloud that was started on this state folder. False if none is up."""
    running = status(state)
    if running:
        _terminate(running.pid, lambda: not _is_a_cloud(running.pid))
    record.remove(state)
    (state / "outputs.json").unlink(missing_ok=True)
    return running is not None


def _terminate(pid: int, has_ended: Callable[[], bool]) -> None:
    """SIGTERM, and after STOP_SECONDS SIGKILL to the process and all its descendants."""
    family = tree_pids(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    while not has_ended():
        if time.monotonic() > end:
            for member in {*family, *tree_pids(pid)}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member, signal.SIGKILL)
            return
        time.sleep(_POLL_SECONDS)


def _is_a_cloud(pid: int) -> bool:
    """The process lives and is a local cloud: process ids are used again."""
    listing = subprocess.run(["ps", "-p", str(pid), "-o", "stat=,command="], capture_output=True, text=True).stdout
    return "dreamdrop.local" in listing and not listing.lstrip().startswith("Z")


def _tail(log: Path) -> str:
    return log.read_bytes()[-_LOG_TAIL:].decode(errors="replace").strip() or "its log is empty."
