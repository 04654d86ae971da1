"""Reads batches from the server's socket, one at a time, and answers each request in them."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

import boto3
import torch

from contracts.artifact import BaseModelManifest
from contracts.errors import DreamdropError, GenerationFailed
from contracts.generation import CONCURRENT_INVOCATIONS, MAX_IMAGES_PER_REQUEST
from inference_container import frames
from inference_container.answers import render
from inference_container.generator import Drawing, Generator, Settings
from inference_container.networks import load_base_model, pick_device
from inference_container.payload import Invocation
from inference_container.platform import Platform
from inference_container.subject_models import MemoryLimits, SubjectModels
from inference_container.subjects import SubjectStore
from inference_container.worker_process import WorkerAnswer

MOST_PICTURES = max(CONCURRENT_INVOCATIONS, MAX_IMAGES_PER_REQUEST)
MAX_SUBJECTS_ON_DEVICE = 64
SECONDS_BETWEEN_CLEANINGS = 60.0

_log = logging.getLogger(__name__)


def build_generator(platform: Platform, verification: Future[BaseModelManifest]) -> Generator:
    """Raises InvalidBaseModel, or HostingFailed when a dedicated container's subject is unusable."""
    device = pick_device()
    base = load_base_model(platform.model_directory, device, verification)
    store = None
    if platform.data_bucket is not None:
        platform.subject_directory.mkdir(parents=True, exist_ok=True)
        disk_bytes = shutil.disk_usage(platform.subject_directory).free // 2
        store = SubjectStore(boto3.client("s3"), platform.data_bucket, platform.subject_directory, disk_bytes)
    models = SubjectModels(base, store, _limits(device), platform.own_subject, platform.own_subject_name)
    _log.info("base model %s is ready on %s", base.manifest.id, device)
    # On the CPU a batch would change the last bits of a picture, and a seed promises the same picture again.
    most_at_once = MOST_PICTURES if device.type == "cuda" else 1
    settings = Settings(platform.blocked_words, platform.watermark)
    return Generator(models, most_at_once, settings, store.read if store else None)


def _limits(device: torch.device) -> MemoryLimits:
    """For subjects: a quarter of the machine's memory, and half of what the base model left free on the GPU."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    on_device = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else memory
    return MemoryLimits(MAX_SUBJECTS_ON_DEVICE, on_device, memory)


def serve_connection(connection: socket.socket, generator: Generator) -> None:
    """Never returns: the process ends with the connection."""
    inbox: queue.SimpleQueue[frames.Frame] = queue.SimpleQueue()
    threading.Thread(target=_read_until_closed, args=(connection, inbox), daemon=True).start()
    frames.send(connection, {"most_at_once": generator.most_at_once})
    cleaned = time.monotonic()
    while True:
        try:
            frame = inbox.get(timeout=SECONDS_BETWEEN_CLEANINGS)
        except queue.Empty:
            frame = None
        if frame is not None:
            batch = [Invocation.model_validate(invocation) for invocation in frame.header["batch"]]
            _send(connection, _answers(batch, generator))
        if generator.worn_out:
            _log.error("this process cannot go on")
            os._exit(os.EX_SOFTWARE)
        if time.monotonic() - cleaned >= SECONDS_BETWEEN_CLEANINGS:  # not before the answer: it asks the bucket
            _clean_up(generator)
            cleaned = time.monotonic()


def _answers(batch: Sequence[Invocation], generator: Generator) -> list[WorkerAnswer]:
    """One for each. A failure that nobody thought of is that of one request: it is found by drawing each alone."""
    try:
        drawn = generator.draw([invocation.payload for invocation in batch])
        return [_answer(invocation, drawing) for invocation, drawing in zip(batch, drawn, strict=True)]
    except torch.AcceleratorError:  # the GPU's context is lost for this process
        _log.exception("the GPU has failed")
        os._exit(os.EX_SOFTWARE)  # without an answer: the server finds out which request it was
    except Exception as error:  # noqa: BLE001  the boundary of the process: whatever it was, the callers are told
        _log.exception("a batch failed")
        if len(batch) == 1:
            return [_refusal(GenerationFailed(f"Drawing failed with {type(error).__name__}: {str(error)[:200]}."))]
    # Outside the except block: the traceback would keep the failed batch's tensors.
    return [answer for invocation in batch for answer in _answers([invocation], generator)]


def _clean_up(generator: Generator) -> None:
    try:
        generator.drop_deleted()
    except DreamdropError as error:
        _log.warning("%s", error)


def _answer(invocation: Invocation, drawn: Drawing | DreamdropError) -> WorkerAnswer:
    if isinstance(drawn, DreamdropError):
        _log.warning("%s", drawn, exc_info=drawn if drawn.status >= 500 else None)
        return _refusal(drawn)
    return WorkerAnswer(200, render(invocation, drawn))


def _refusal(error: DreamdropError) -> WorkerAnswer:
    return WorkerAnswer(error.status, error.report.model_dump_json().encode())


def _send(connection: socket.socket, answers: Sequence[WorkerAnswer]) -> None:
    described = [{"status": answer.status, "bytes": len(answer.body)} for answer in answers]
    frames.send(connection, {"answers": described}, b"".join(answer.body for answer in answers))


def _read_until_closed(connection: socket.socket, inbox: queue.SimpleQueue[frames.Frame]) -> None:
    """In a thread of its own, so that the end of the server is noticed in the middle of a picture."""
    while True:
        try:
            inbox.put(frames.receive(connection))
        except OSError:
            os._exit(0)
