"""The server's side of the worker: starts it, asks it, and starts another when it dies."""

from __future__ import annotations

import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from contracts.errors import EndpointBusy, GenerationFailed
from contracts.generation import DRAWING_TIMEOUT_SECONDS
from inference_container import frames
from inference_container.payload import Invocation

MAX_FAILED_STARTS = 3
KILL_AFTER_SECONDS = 2.0
AT_ONCE_SECONDS = 0.25  # a process takes as long to be gone

_log = logging.getLogger(__name__)


class _DiedAtOnce(GenerationFailed):
    pass


class WorkerAnswer(NamedTuple):
    status: int
    body: bytes


@dataclass(frozen=True)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: socket.socket


class WorkerProcess:
    """One worker at a time, one batch at a time. `on_hopeless` is called once when no worker can be started."""

    def __init__(self, on_hopeless: Callable[[], None], timeout_seconds: float = DRAWING_TIMEOUT_SECONDS) -> None:
        self._on_hopeless = on_hopeless
        self._timeout_seconds = timeout_seconds
        self._changed = threading.Condition()  # guards what follows
        self._current: _Worker | None = None
        self._ready = False
        self._ended = False
        self._stopped = False  # from outside, rather than for want of a worker that starts
        self._most_at_once = 1

    def start(self) -> None:
        threading.Thread(target=self._keep_one_running, daemon=True).start()

    @property
    def ready(self) -> bool:
        """True while a worker that has loaded the base model is running."""
        return self._ready and self._current is not None and self._current.process.poll() is None

    @property
    def most_at_once(self) -> int:
        """Pictures that the worker draws in one go; of more, one waits for the other, and the time limit is for all."""
        return self._most_at_once

    def wait_until_ready(self) -> bool:
        """False when there is no worker and none will come, or it takes too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ready or self._ended, self._timeout_seconds) and self.ready

    def ask(self, batch: Sequence[Invocation]) -> list[WorkerAnswer]:
        """Waits for the worker, then for its answers.

        Raises GenerationFailed when the worker dies or is too slow, EndpointBusy when it was stopped.
        """
        try:
            try:
                return self._ask_once(batch)
            except _DiedAtOnce:  # it was dying already, and this batch is not to blame
                return self._ask_once(batch)
        except GenerationFailed as error:
            if self._stopped:
                raise EndpointBusy("The server was stopped before the request was drawn.") from error
            raise

    def _ask_once(self, batch: Sequence[Invocation]) -> list[WorkerAnswer]:
        worker = self._living()
        started = time.monotonic()
        try:
            frames.send(worker.connection, {"batch": [invocation.model_dump(mode="json") for invocation in batch]})
            return _answers_in(frames.receive(worker.connection))
        except TimeoutError as error:
            self._discard(worker)
            raise GenerationFailed(
                f"Drawing took longer than {self._timeout_seconds:g} s.", "Ask for fewer pictures or steps."
            ) from error
        except OSError as error:
            self._discard(worker)
            at_once = time.monotonic() - started < AT_ONCE_SECONDS
            failure = _DiedAtOnce if at_once else GenerationFailed
            raise failure("The generating process died while it was drawing.") from error

    def _living(self) -> _Worker:
        """Raises GenerationFailed."""
        while self.wait_until_ready() and (worker := self._current) is not None:
            if not _has_hung_up(worker.connection):
                return worker
            self._discard(worker)  # it died since; nobody is to blame for that, and another one comes
        raise GenerationFailed("The generating process is not running.")

    def stop(self) -> None:
        """Ends the worker, whatever it is doing."""
        with self._changed:
            self._stopped, self._ended, self._ready = True, True, False
            worker = self._current
            self._changed.notify_all()
        if worker is None:
            return
        worker.connection.close() if worker.process.poll() is not None else _hang_up(worker)

    def _keep_one_running(self) -> None:
        failed_starts = 0
        while not self._ended:
            started, code = self._run_one()
            if self._ended:
                return
            _log.error("the worker ended with %d", code)
            failed_starts = 0 if started else failed_starts + 1
            if code == os.EX_CONFIG or failed_starts >= MAX_FAILED_STARTS:
                self._give_up()
                return
            time.sleep(failed_starts)

    def _run_one(self) -> tuple[bool, int]:
        """(whether it came up, its exit code)."""
        try:
            worker = self._launch()
        except OSError:  # no memory or no descriptor left for another process
            _log.exception("the worker could not be started")
            return False, os.EX_OSERR
        if worker is None:
            return False, 0
        started = self._await_ready(worker)
        code = worker.process.wait()
        with self._changed:
            self._ready = False
        worker.connection.close()
        return started, code

    def _launch(self) -> _Worker | None:
        with self._changed:
            if self._ended:
                return None
            self._current = _start_worker()
            return self._current

    def _await_ready(self, worker: _Worker) -> bool:
        try:
            greeting = frames.receive(worker.connection).header
        except OSError:
            return False
        worker.connection.settimeout(self._timeout_seconds)
        with self._changed:
            self._most_at_once = greeting["most_at_once"]
            self._ready = not self._ended
            self._changed.notify_all()
        return True

    def _discard(self, worker: _Worker) -> None:
        with self._changed:
            if self._current is worker:
                self._ready = False
        worker.process.kill()

    def _give_up(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._on_hopeless()


def _start_worker() -> _Worker:
    """Raises OSError."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "inference_container.worker", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    return _Worker(process, ours)


def _answers_in(frame: frames.Frame) -> list[WorkerAnswer]:
    """The bodies lie behind each other."""
    answers, start = [], 0
    for answer in frame.header["answers"]:
        end = start + answer["bytes"]
        answers.append(WorkerAnswer(answer["status"], frame.body[start:end]))
        start = end
    return answers


def _has_hung_up(connection: socket.socket) -> bool:
    """The other end says nothing unasked, so what can be read is the end."""
    poll = select.poll()  # unlike select.select, it takes descriptors beyond 1023
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _hang_up(worker: _Worker) -> None:
    """The worker ends when its connection does; it is killed if it is too busy to notice."""
    try:
        worker.connection.shutdown(socket.SHUT_RDWR)
        worker.process.wait(KILL_AFTER_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        worker.process.kill()
        worker.process.wait()
