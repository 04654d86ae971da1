"""The process that draws: reads invocations from the server's socket, one at a time, and answers each.

It ends when the server does. A failure that leaves it unable to go on ends it too: the server starts a new one.
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import signal
import socket
import sys
import threading

import boto3
import torch

from contracts.errors import DreamdropError, GenerationFailed
from inference_container import frames
from inference_container.answers import render
from inference_container.generator import Generator
from inference_container.payload import Invocation
from inference_container.pipelines import load_base_model, pick_device
from inference_container.platform import Platform
from inference_container.subject_models import MemoryLimits, SubjectModels
from inference_container.subjects import SubjectStore

MAX_SUBJECTS_IN_MEMORY = 64

_log = logging.getLogger(__name__)


def build_generator(platform: Platform) -> Generator:
    """Raises InvalidBaseModel."""
    device = pick_device()
    base = load_base_model(platform.model_directory, device)
    store = None
    if platform.data_bucket is not None:
        platform.subject_directory.mkdir(parents=True, exist_ok=True)
        disk_bytes = shutil.disk_usage(platform.subject_directory).free // 2
        store = SubjectStore(boto3.client("s3"), platform.data_bucket, platform.subject_directory, disk_bytes)
    limits = MemoryLimits(subjects=MAX_SUBJECTS_IN_MEMORY, bytes=_spare_memory(device))
    _log.info("base model %s is ready on %s", base.manifest.id, device)
    return Generator(SubjectModels(base, store, limits))


def _spare_memory(device: torch.device) -> int:
    """Bytes for subjects: half of what the base model left free on the GPU, or a quarter of the machine's memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def serve_connection(connection: socket.socket, generator: Generator) -> None:
    """Never returns: the process ends with the connection."""
    inbox: queue.SimpleQueue[frames.Frame] = queue.SimpleQueue()
    threading.Thread(target=_read_until_closed, args=(connection, inbox), daemon=True).start()
    frames.send(connection, {"event": "ready"})
    while True:
        invocation = Invocation.model_validate(inbox.get().header["invocation"])
        try:
            body, failure = render(invocation, generator.draw(invocation.payload)), None
        except DreamdropError as error:
            _log.warning("%s", error, exc_info=error.status >= 500)
            body, failure = b"", error
        except Exception as error:  # noqa: BLE001  the boundary of the process: whatever it was, the caller is told
            _log.exception("a request failed")
            failure = GenerationFailed(f"Drawing failed with {type(error).__name__}: {str(error)[:200]}.")
            _answer(connection, b"", failure)
            if isinstance(error, torch.AcceleratorError):  # the GPU's context is lost for this process
                sys.exit(os.EX_SOFTWARE)
            continue
        _answer(connection, body, failure)


def _answer(connection: socket.socket, body: bytes, failure: DreamdropError | None) -> None:
    if failure is None:
        frames.send(connection, {"status": 200}, body)
    else:
        frames.send(connection, {"status": failure.status}, failure.report.model_dump_json().encode())


def _read_until_closed(connection: socket.socket, inbox: queue.SimpleQueue[frames.Frame]) -> None:
    """In a thread of its own, so that the end of the server is noticed in the middle of a picture."""
    while True:
        try:
            inbox.put(frames.receive(connection))
        except OSError:
            os._exit(0)


def main(arguments: list[str]) -> int:
    """`python -m inference_container.worker FD`; FD is an inherited, connected socket."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a signal to the whole group is the server's to handle
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s worker %(levelname)s %(message)s")
    connection = socket.socket(fileno=int(arguments[0]))
    try:
        generator = build_generator(Platform.from_environment(os.environ))
    except DreamdropError as error:
        _log.error("%s", error)
        return os.EX_CONFIG
    serve_connection(connection, generator)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
