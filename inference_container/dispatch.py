"""Requests wait here: they are drawn in batches, and a crash is blamed on the request that caused it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from contracts.errors import DreamdropError, EndpointBusy, GenerationFailed
from contracts.generation import INVOCATION_TIMEOUT_SECONDS
from inference_container.batching import next_batch
from inference_container.payload import Invocation
from inference_container.worker_process import WorkerAnswer, WorkerProcess

_log = logging.getLogger(__name__)


@dataclass
class _Waiting:
    invocation: Invocation
    answer: Future[WorkerAnswer] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)

    @property
    def is_given_up(self) -> bool:
        """SageMaker no longer waits for it."""
        return time.monotonic() - self.arrived > INVOCATION_TIMEOUT_SECONDS


class Dispatcher:
    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self._arrived = threading.Condition()
        self._waiting: list[_Waiting] = []

    def start(self) -> None:
        threading.Thread(target=self._draw_what_waits, daemon=True).start()

    def draw(self, invocation: Invocation) -> WorkerAnswer:
        """Waits for the answer. Raises DreamdropError when there is none."""
        mine = _Waiting(invocation)
        with self._arrived:
            self._waiting.append(mine)
            self._arrived.notify()
        return mine.answer.result()

    def _draw_what_waits(self) -> None:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._waiting)
            self._worker.wait_until_ready()  # meanwhile others arrive, and are drawn together with the first
            with self._arrived:
                chosen = next_batch([one.invocation.payload for one in self._waiting], self._worker.most_at_once)
                batch = [self._waiting[index] for index in chosen]
                self._waiting = [one for one in self._waiting if one not in batch]
            self._draw(batch)

    def _draw(self, batch: Sequence[_Waiting]) -> None:
        given_up = [one for one in batch if one.is_given_up]
        for one in given_up:
            one.answer.set_exception(GenerationFailed("The request waited too long behind others."))
        if wanted := [one for one in batch if one not in given_up]:
            self._draw_wanted(wanted)

    def _draw_wanted(self, batch: Sequence[_Waiting]) -> None:
        try:
            answers = self._worker.ask([one.invocation for one in batch])
        except EndpointBusy as error:
            for one in batch:
                one.answer.set_exception(error)
        except GenerationFailed as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            _log.warning("%d requests failed together; each is drawn alone now: %s", len(batch), error)
            for one in batch:
                self._draw([one])
        except Exception as error:  # noqa: BLE001  whatever it was, nobody may wait for ever
            _log.exception("a batch failed")
            for one in batch:
                one.answer.set_exception(error if isinstance(error, DreamdropError) else GenerationFailed(str(error)))
        else:
            for one, answer in zip(batch, answers, strict=True):
                one.answer.set_result(answer)
