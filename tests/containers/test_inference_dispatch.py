"""Who waits, who is drawn together, who is to blame, and what stays in a cache. No torch here."""

from __future__ import annotations

import fcntl
import resource
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from contracts.errors import DreamdropError, EndpointBusy, GenerationFailed
from contracts.generation import InferencePayload
from inference_container import dispatch
from inference_container.batching import kind_of, next_batch
from inference_container.dispatch import Dispatcher
from inference_container.payload import Invocation
from inference_container.shelf import Shelf
from inference_container.worker_process import WorkerAnswer, _has_hung_up

VERSION = "0123456789ab-1"


def payload(**fields: Any) -> InferencePayload:
    return InferencePayload.model_validate({"prompt": "a dog", **fields})


def rex(**fields: Any) -> InferencePayload:
    return payload(**{"subject": "rex", "version": VERSION, **fields})


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "tom"},
        {"version": "0123456789ab-2"},
        {"lora_scale": 0.5},
        {"mix": [{"subject": "tom", "version": VERSION}]},
        {"width": 64},
        {"height": 64},
        {"num_inference_steps": 3},
        {"scheduler": "ddim"},
        {"guidance_scale": 1.0},
        {"upscale": 2},
        {"source_image": f"sources/{'a' * 16}/{'b' * 32}"},
    ],
)
def test_requests_that_differ_in_model_shape_or_steps_are_not_drawn_together(change: dict[str, Any]) -> None:
    assert kind_of(rex(**change)) != kind_of(rex())


def test_requests_that_differ_in_prompt_seed_or_number_are_drawn_together() -> None:
    plain = rex(guidance_scale=5.0)
    for change in ({"prompt": "a cat"}, {"seed": 3}, {"negative_prompt": "x"}, {"num_images_per_prompt": 3}):
        assert kind_of(rex(guidance_scale=5.0, **change)) == kind_of(plain)
    assert kind_of(rex(guidance_scale=9.0)) == kind_of(plain)


def test_the_longest_waiting_is_next_and_takes_its_kind_along_as_far_as_it_fits() -> None:
    waiting = [rex(num_images_per_prompt=3), payload(), rex(num_images_per_prompt=6), rex(num_images_per_prompt=5)]
    assert next_batch(waiting, 8) == [0, 3]
    assert next_batch(waiting[1:], 8) == [0]
    assert next_batch([rex(num_images_per_prompt=8), rex()], 4) == [0]


class Worker:
    """Answers with the prompts, and dies of the prompt 'poison'."""

    def __init__(self, most_at_once: int = 8) -> None:
        self.most_at_once = most_at_once
        self.batches: list[list[str]] = []
        self.may_go_on = threading.Event()

    def wait_until_ready(self) -> bool:
        return self.may_go_on.wait(10)

    def ask(self, batch: Sequence[Invocation]) -> list[WorkerAnswer]:
        prompts = [str(invocation.payload.prompt) for invocation in batch]
        self.batches.append(prompts)
        if "poison" in prompts:
            raise GenerationFailed("The generating process died while it was drawing.")
        if "stopped" in prompts:
            raise EndpointBusy("The server was stopped before the request was drawn.")
        if "bug" in prompts:
            raise KeyError("bug")
        return [WorkerAnswer(200, prompt.encode()) for prompt in prompts]


def ask_all(worker: Worker, *prompts: str) -> list[Any]:
    """Answers in order; an error in place of one."""
    dispatcher = Dispatcher(worker)  # type: ignore[arg-type]  # as much of one as is used
    dispatcher.start()

    def ask(prompt: str) -> Any:
        try:
            asked = Invocation(payload=payload(prompt=prompt), plain_text=False, form="png")
            return dispatcher.draw(asked).body.decode()
        except DreamdropError as error:
            return error

    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = [pool.submit(ask, prompt) for prompt in prompts]
        while len(dispatcher._waiting) < len(prompts):
            threading.Event().wait(0.01)
        worker.may_go_on.set()
        return [answer.result(10) for answer in answers]


def test_what_waits_together_is_drawn_together() -> None:
    worker = Worker()
    assert ask_all(worker, "a", "b", "c") == ["a", "b", "c"]
    assert [sorted(batch) for batch in worker.batches] == [["a", "b", "c"]]


def test_a_crash_is_reported_for_the_request_that_caused_it_only() -> None:
    worker = Worker()
    first, culprit, last = ask_all(worker, "a", "poison", "b")
    assert (first, last) == ("a", "b")
    assert isinstance(culprit, GenerationFailed)
    assert sorted(map(len, worker.batches)) == [1, 1, 1, 3]


def test_no_more_are_asked_for_together_than_the_worker_draws_in_one_go() -> None:
    worker = Worker(most_at_once=1)
    assert ask_all(worker, "a", "b", "c") == ["a", "b", "c"]
    assert [len(batch) for batch in worker.batches] == [1, 1, 1]


def test_a_request_that_nobody_waits_for_any_more_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "INVOCATION_TIMEOUT_SECONDS", -1)
    worker = Worker()
    [given_up] = ask_all(worker, "a")
    assert isinstance(given_up, GenerationFailed)
    assert worker.batches == []


def test_nobody_waits_for_ever_after_an_error_that_nobody_thought_of() -> None:
    assert all(isinstance(answer, GenerationFailed) for answer in ask_all(Worker(), "bug", "a"))


def test_a_shelf_keeps_what_was_used_last_within_its_budget() -> None:
    gone: list[str] = []
    shelf: Shelf[int] = Shelf(10, most_items=3, on_eviction=lambda key, _: gone.append(key))
    shelf.put("a", 1, 4)
    shelf.put("b", 2, 4)
    assert (shelf.get("a"), shelf.get("nothing")) == (1, None)
    shelf.put("c", 3, 4)
    assert (list(shelf), gone) == (["a", "c"], ["b"])
    shelf.put("d", 4, 1)
    shelf.put("e", 5, 1)
    assert (list(shelf), gone) == (["c", "d", "e"], ["b", "a"])
    shelf.put("huge", 6, 99)
    assert list(shelf) == ["huge"]
    assert (shelf.take("huge"), shelf.take("huge"), gone[-1]) == (6, None, "e")
    shelf.put("x", 1, 1)
    shelf.put("y", 1, 5)
    shelf.reserve(5)
    assert list(shelf) == ["x", "y"]
    shelf.put("z", 1, 1)
    assert (list(shelf), gone[-2:]) == (["z"], ["x", "y"])
    shelf.clear()
    assert (list(shelf), gone[-1]) == ([], "y")


def test_requests_of_a_server_that_stops_may_be_sent_again_and_are_not_tried_again_here() -> None:
    worker = Worker()
    first, last = ask_all(worker, "a", "stopped")
    assert isinstance(first, EndpointBusy)
    assert isinstance(last, EndpointBusy)
    assert worker.batches == [["a", "stopped"]]


def test_the_end_of_a_worker_is_seen_with_a_thousand_connections_open() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    ours, theirs = socket.socketpair()
    try:
        with ours, theirs, socket.socket(fileno=fcntl.fcntl(ours, fcntl.F_DUPFD, 1024)) as high:
            assert not _has_hung_up(high)
            theirs.close()
            assert _has_hung_up(high)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
