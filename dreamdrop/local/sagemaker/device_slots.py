"""The machine's accelerator, lent to one training job after another."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_POLL_SECONDS = 1.0  # until one that waits notices that it is not wanted any more: hundreds may wait


class DeviceSlots:
    """First come, first served."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiting: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def hold(self, given_up: Callable[[], bool], on_wait: Callable[[], None]) -> Iterator[bool]:
        """Yields True with a slot, False if `given_up` came first. `on_wait` is called once if there is a queue."""
        held = self._acquire(given_up, on_wait)
        try:
            yield held
        finally:
            if held:
                self._release()

    def _acquire(self, given_up: Callable[[], bool], on_wait: Callable[[], None]) -> bool:
        my_turn = threading.Event()
        with self._lock:
            self._waiting.append(my_turn)
            self._call_next()
        if my_turn.is_set():
            return True
        on_wait()
        while not my_turn.wait(_POLL_SECONDS):
            with self._lock:
                if given_up() and not my_turn.is_set():
                    self._waiting.remove(my_turn)
                    return False
        return True

    def _release(self) -> None:
        with self._lock:
            self._free += 1
            self._call_next()

    def _call_next(self) -> None:
        if self._free and self._waiting:
            self._free -= 1
            self._waiting.popleft().set()
