"""What waits for an asynchronous endpoint: in order, on disk, until it is answered, failed or expired."""

from __future__ import annotations

import base64
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Self

from dreamdrop.local.sagemaker.store import Record, RecordStore


@dataclass(frozen=True)
class AsyncRequest:
    """One accepted InvokeEndpointAsync. Times are seconds since the epoch."""

    id: str
    inference_id: str
    endpoint: str
    headers: dict[str, str]  # what the container is sent
    output_location: str
    failure_location: str
    received: float
    expires: float
    timeout_seconds: int
    input_location: str | None = None
    body: bytes = b""

    def to_record(self) -> Record:
        return {**asdict(self), "body": base64.b64encode(self.body).decode()}

    @classmethod
    def from_record(cls, record: Record) -> Self:
        return cls(**{**record, "body": base64.b64decode(record["body"])})


class AsyncQueue:
    """The backlog of one endpoint. A request leaves the disk only when it is done: at least once across restarts."""

    def __init__(self, endpoint: str, store: RecordStore) -> None:
        self._store = store
        kept = [AsyncRequest.from_record(record) for record in store.all() if record["endpoint"] == endpoint]
        self._waiting = deque(sorted(kept, key=lambda request: request.received))
        self._in_flight = 0
        self._last_activity = time.monotonic()
        self._changed = threading.Condition()

    def put(self, request: AsyncRequest) -> None:
        self._store.add(request.id, request.to_record())
        with self._changed:
            self._waiting.append(request)
            self._note_activity()

    def take(self, wanted: Callable[[], bool]) -> AsyncRequest | None:
        """Blocks for the next request; None once `wanted` says that the taker should leave."""
        with self._changed:
            while wanted():
                if self._waiting and not _expired(self._waiting[0]):
                    self._in_flight += 1
                    return self._waiting.popleft()
                self._changed.wait(0.1)
        return None

    def put_back(self, request: AsyncRequest) -> None:
        with self._changed:
            self._waiting.appendleft(request)
            self._in_flight -= 1
            self._note_activity()

    def done(self, request: AsyncRequest) -> None:
        """Of a request that was taken."""
        self._store.delete(request.id)
        with self._changed:
            self._in_flight -= 1
            self._note_activity()

    def remove_expired(self) -> list[AsyncRequest]:
        return self._remove(_expired)

    def remove_all(self) -> list[AsyncRequest]:
        return self._remove(lambda request: True)

    def idle_seconds(self) -> float:
        """Since the last arrival or answer; 0 while anything waits or runs."""
        with self._changed:
            return 0.0 if self._waiting or self._in_flight else time.monotonic() - self._last_activity

    def touch(self) -> None:
        with self._changed:
            self._note_activity()

    def age_of_oldest(self) -> float | None:
        """Seconds that the oldest waiting request has waited; None if none waits."""
        with self._changed:
            return time.time() - self._waiting[0].received if self._waiting else None

    def _remove(self, chosen: Callable[[AsyncRequest], bool]) -> list[AsyncRequest]:
        with self._changed:
            removed = [request for request in self._waiting if chosen(request)]
            if removed:
                gone = {request.id for request in removed}
                self._waiting = deque(request for request in self._waiting if request.id not in gone)
                self._note_activity()
        return removed

    def _note_activity(self) -> None:
        self._last_activity = time.monotonic()
        self._changed.notify_all()


def _expired(request: AsyncRequest) -> bool:
    return time.time() >= request.expires
