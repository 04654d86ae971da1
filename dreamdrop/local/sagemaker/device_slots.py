"""The machine's accelerator, lent to one training job after another."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class DeviceSlots:
    """First come, first served."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, given_up: Callable[[], bool], on_wait: Callable[[], None]) -> Iterator[bool]:
        """Yields True with a slot, False if `given_up` came first. `on_wait` is called once if there is a queue."""
        held = self._acquire(given_up, on_wait)
        try:
            yield held
        finally:
            if held:
                with self._changed:
                    self._free += 1
                    self._changed.notify_all()

    def _acquire(self, given_up: Callable[[], bool], on_wait: Callable[[], None]) -> bool:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            must_wait = not self._is_next(ticket)
        if must_wait:
            on_wait()
        with self._changed:
            try:
                while not self._is_next(ticket):
                    if given_up():
                        return False
                    self._changed.wait(0.1)
                self._free -= 1
                return True
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def _is_next(self, ticket: object) -> bool:
        return self._free > 0 and self._waiting[0] is ticket
