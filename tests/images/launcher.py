"""Runs an image as `docker run IMAGE ...` does, with util-linux only: namespaces of its own, our program as PID 1.

Of docker it lacks limits of memory and devices. Its network is the loopback device and nothing else, as in a training
job with EnableNetworkIsolation.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.images.store import Store

NAMESPACES = ("--mount", "--pid", "--ipc", "--uts", "--net", "--fork")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_START_SECONDS = 10.0


@dataclass(frozen=True)
class Container:
    root: Path
    launcher: subprocess.Popen[bytes]
    environment: dict[str, str]
    log: Path

    @property
    def pid(self) -> int:
        """Its PID 1, as this machine numbers it."""
        (pid,) = children(self.launcher.pid)
        return pid

    def stop(self) -> None:
        """What SageMaker sends first. The handler must be there: PID 1 has no default one."""
        os.kill(self.pid, signal.SIGTERM)

    def wait(self, seconds: float) -> int:
        """The exit code of PID 1. Raises subprocess.TimeoutExpired."""
        return self.launcher.wait(seconds)

    def execute(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Another program inside, as `docker exec` does."""
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--ipc", "--uts", "--net", "--root", "--wd"]
        return subprocess.run(
            [*enter, *_with_environment(self.environment), *argv], capture_output=True, text=True, check=False
        )

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for_output(self, text: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while text not in self.output():
            if self.launcher.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{text!r} was not written; but:\n{self.output()[-4000:]}")
            time.sleep(0.1)


@contextmanager
def running(
    store: Store,
    image: str,
    *arguments: str,
    volumes: Mapping[Path, str],
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Container]:
    """`volumes`: folder here -> place in the container. What still runs at the end is killed."""
    config = store.config(image)
    variables = dict(pair.split("=", 1) for pair in config.get("Env", []))
    variables = {"HOME": "/root", **variables, **(environment or {})}
    argv = [*config.get("Entrypoint", []), *(arguments or config.get("Cmd", []))]
    with store.file_system(image) as root, log.open("wb") as out:
        enter = ["unshare", f"--root={root}", f"--wd={config.get('WorkingDir', '/')}"]
        program = shlex.join([*enter, *_with_environment(variables), *argv])
        script = "\n".join(["set -e", *_mounts(root, volumes), "ip link set lo up", f"exec {program}"])
        launcher = subprocess.Popen(
            ["unshare", *NAMESPACES, "--kill-child=SIGKILL", "sh", "-c", script], stdout=out, stderr=subprocess.STDOUT
        )
        container = Container(root=root, launcher=launcher, environment=variables, log=log)
        try:
            _wait_for_program(container)
            yield container
        finally:
            launcher.kill()  # the kernel kills PID 1 with it, and with PID 1 everything inside
            launcher.wait()


def children(pid: int) -> list[int]:
    """Of all threads of the process."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for children in lists for child in children.read_text().split()]


def _with_environment(variables: Mapping[str, str]) -> list[str]:
    return ["env", "--ignore-environment", *(f"{name}={value}" for name, value in variables.items())]


def _mounts(root: Path, volumes: Mapping[Path, str]) -> Sequence[str]:
    """What docker mounts: the root, /proc, a /dev with little in it, and the volumes."""
    inside = shlex.quote(str(root))
    lines = [
        "mount --make-rprivate /",
        f"mount --bind {inside} {inside}",
        f"mount -t proc proc {inside}/proc",
        f"mount -t tmpfs -o mode=755 tmpfs {inside}/dev",
        f"mkdir {inside}/dev/shm",
        f"mount -t tmpfs -o mode=1777,size=64m tmpfs {inside}/dev/shm",
        f"ln -s /proc/self/fd {inside}/dev/fd",
    ]
    for device in _DEVICES:
        lines += [f"touch {inside}/dev/{device}", f"mount --bind /dev/{device} {inside}/dev/{device}"]
    for folder, place in volumes.items():
        lines += [f"mkdir -p {inside}{place}", f"mount --bind {shlex.quote(str(folder))} {inside}{place}"]
    return lines


def _wait_for_program(container: Container) -> None:
    """Until PID 1 has the image's root: before, it is the shell that mounts."""
    end = time.monotonic() + _START_SECONDS
    while container.launcher.poll() is None and not _has_started(container):
        if time.monotonic() > end:
            raise TimeoutError(f"the container did not start: {container.output()}")
        time.sleep(0.01)


def _has_started(container: Container) -> bool:
    with suppress(OSError):  # it may end at once
        return any(Path(f"/proc/{pid}/root").readlink() == container.root for pid in children(container.launcher.pid))
    return False
