"""One Lambda execution environment: a process that serves one request at a time."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

from dreamdrop.local.lambda_runtime.function import FunctionSpec, Outcome, failure, process_environment
from dreamdrop.local.lambda_runtime.runtime_api import Invocation, Report, RuntimeApi, trace_root
from dreamdrop.local.memory import peak_rss_bytes

# AWS allows 10 s and then starts again; a laptop under load imports more slowly, and starting again would not help it.
INIT_LIMIT_SECONDS = 60.0


class ExecutionEnvironment:
    """The first invocation waits for the process to initialise, at most INIT_LIMIT_SECONDS; the timeout starts then."""

    def __init__(self, spec: FunctionSpec, root: Path) -> None:
        self.spec = spec
        self.alive = True
        self.last_used = time.monotonic()
        self.trace_root = ""
        """Of the newest invocation."""
        self._initialised = False
        self._reports: queue.Queue[Report] = queue.Queue()
        self._api = RuntimeApi(spec.arn, spec.timeout, self._reports.put)
        stream = uuid.uuid4().hex
        self._log_path = root / f"{stream}.log"
        self._log = self._log_path.open("w+b")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", spec.handler],
            cwd=root / "code",
            env=process_environment(spec, root, self._api.address, stream),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        threading.Thread(target=self._watch, daemon=True, name=f"lambda-{spec.name}").start()

    def _watch(self) -> None:
        self._reports.put(Report("exit", str(self._process.wait()).encode()))

    def invoke(self, payload: bytes, request_id: str) -> Outcome:
        """A failed initialisation, an exit or a timeout ends the environment."""
        self.trace_root = trace_root(request_id)
        position = self._log.seek(0, os.SEEK_END)
        ended = self._initialise(request_id)
        if ended is None:
            self._api.invocations.put(Invocation(request_id, payload))
            ended = self._await_answer(request_id)
        self.last_used = time.monotonic()
        self._log.seek(position)
        return Outcome(ended.failed, ended.body, self._log.read().decode(errors="replace"))

    def peak_rss_bytes(self) -> int:
        return peak_rss_bytes(self._process.pid)

    def kill(self) -> None:
        """Ends the process; an invocation in flight then fails with Runtime.ExitError."""
        self.alive = False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Call it only when no invocation is in flight."""
        self.kill()
        self._process.wait()
        self._api.close()
        self._log.close()
        self._log_path.unlink(missing_ok=True)

    def _initialise(self, request_id: str) -> Outcome | None:
        """None when the runtime asks for work."""
        end = time.monotonic() + INIT_LIMIT_SECONDS
        while not self._initialised:
            report = self._report_before(end)
            if report is None:
                self.alive = False
                return failure(
                    "Sandbox.Timedout",
                    f"RequestId: {request_id} Error: Initialisation took longer than {INIT_LIMIT_SECONDS:.0f} seconds",
                )
            if report.kind == "ready":
                self._initialised = True
            elif report.kind == "init-error":
                self.alive = False
                return Outcome(True, report.body)
            elif report.kind == "exit":
                return self._exited(request_id, report)
        return None

    def _await_answer(self, request_id: str) -> Outcome:
        end = time.monotonic() + self.spec.timeout
        while True:
            report = self._report_before(end)
            if report is None:
                self.alive = False
                return failure(
                    "Sandbox.Timedout",
                    f"RequestId: {request_id} Error: Task timed out after {self.spec.timeout:.2f} seconds",
                )
            if report.kind == "exit":
                return self._exited(request_id, report)
            if report.request_id == request_id:
                return Outcome(report.kind == "error", report.body)

    def _exited(self, request_id: str, report: Report) -> Outcome:
        self.alive = False
        code = int(report.body)
        how = f"signal: {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return failure("Runtime.ExitError", f"RequestId: {request_id} Error: Runtime exited with error: {how}")

    def _report_before(self, end: float) -> Report | None:
        try:
            return self._reports.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            return None
