"""The execution environments of one function version: as many as are needed, up to a cap."""

from __future__ import annotations

import io
import shutil
import tempfile
import threading
import time
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dreamdrop.local.lambda_runtime.environment import ExecutionEnvironment
from dreamdrop.local.lambda_runtime.function import FunctionSpec, Outcome, failure

MAX_ENVIRONMENTS = 4
IDLE_SECONDS = 300.0


@dataclass(frozen=True)
class PoolStatistics:
    environments: int
    invocations: int
    cold_starts: int
    peak_rss_bytes: int


class Pool:
    """Invocations beyond the cap wait for a free environment. Memory is measured, not limited."""

    def __init__(self, spec: FunctionSpec, max_environments: int = MAX_ENVIRONMENTS) -> None:
        self.spec = spec
        self._max = max_environments
        self._root = Path(tempfile.mkdtemp(prefix=f"lambda-{spec.name}-"))
        with zipfile.ZipFile(io.BytesIO(spec.code_zip)) as archive:
            archive.extractall(self._root / "code")
        self._freed = threading.Condition()
        self._idle: list[ExecutionEnvironment] = []
        self._busy: set[ExecutionEnvironment] = set()
        self._starting = 0
        self._closed = False
        self._invocations = self._cold_starts = self._peak_rss = 0

    def invoke(self, payload: bytes, request_id: str | None = None) -> Outcome:
        request_id = request_id or str(uuid.uuid4())
        environment = self._acquire()
        if environment is None:
            return failure("Runtime.ExitError", f"RequestId: {request_id} Error: the function was replaced or stopped")
        try:
            return environment.invoke(payload, request_id)
        finally:
            self._release(environment)

    def close_idle(self, older_than: float = IDLE_SECONDS) -> None:
        """Ends the environments that nobody has used for `older_than` seconds."""
        limit = time.monotonic() - older_than
        with self._freed:
            stale = [environment for environment in self._idle if environment.last_used <= limit]
            self._idle = [environment for environment in self._idle if environment not in stale]
        for environment in stale:
            environment.close()

    def retire(self) -> None:
        """No new invocations; those in flight finish first."""
        with self._freed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._freed.notify_all()
            last = not self._busy and not self._starting
        for environment in idle:
            environment.close()
        if last:
            shutil.rmtree(self._root, ignore_errors=True)

    def kill(self) -> None:
        """Ends every process now; invocations in flight fail."""
        with self._freed:
            busy = list(self._busy)
        self.retire()
        for environment in busy:
            environment.kill()
        shutil.rmtree(self._root, ignore_errors=True)

    def serving(self, trace_root: str) -> ExecutionEnvironment | None:
        """The environment that serves this invocation at the moment."""
        with self._freed:
            return next((busy for busy in self._busy if busy.trace_root == trace_root), None)

    def statistics(self) -> PoolStatistics:
        with self._freed:
            count = len(self._idle) + len(self._busy) + self._starting
            return PoolStatistics(count, self._invocations, self._cold_starts, self._peak_rss)

    def _acquire(self) -> ExecutionEnvironment | None:
        with self._freed:
            self._invocations += 1
            while not self._closed and not self._idle and len(self._busy) + self._starting >= self._max:
                self._freed.wait()
            if self._closed:
                return None
            if self._idle:
                environment = self._idle.pop()
                self._busy.add(environment)
                return environment
            self._starting += 1
            self._cold_starts += 1
        try:
            environment = ExecutionEnvironment(self.spec, self._root)
        finally:
            with self._freed:
                self._starting -= 1
        with self._freed:
            self._busy.add(environment)
        return environment

    def _release(self, environment: ExecutionEnvironment) -> None:
        peak = environment.peak_rss_bytes() if environment.alive else 0
        with self._freed:
            self._peak_rss = max(self._peak_rss, peak)
            self._busy.discard(environment)
            keep = environment.alive and not self._closed
            if keep:
                self._idle.append(environment)
            self._freed.notify()
            last = self._closed and not self._busy and not self._starting
        if not keep:
            environment.close()
        if last:
            shutil.rmtree(self._root, ignore_errors=True)
