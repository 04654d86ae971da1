"""The serving image, run as SageMaker runs an endpoint: port 8080 in a network of its own, signals, a dying worker."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from contracts.generation import InferenceAnswer
from tests.images.launcher import Container, children, running
from tests.images.store import Store

pytestmark = pytest.mark.oci

ROOT = Path(__file__).parents[2]
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
REQUEST = {"prompt": "a photo of a red robot on the beach", "num_inference_steps": 8, "seed": 7}
CALL = """
import http.client, json, sys
method, path, body = sys.argv[1:]
connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=90)
connection.request(method, path, body or None, {"Content-Type": "application/json", "Accept": "application/json;png"})
answer = connection.getresponse()
print(json.dumps({"status": answer.status, "body": json.loads(answer.read())}))
"""


class Answer(NamedTuple):
    status: int
    body: Any


def call(container: Container, method: str, path: str, body: Any = None) -> Answer | None:
    """By the image's own Python, from inside. None: nobody answered."""
    done = container.execute("python", "-c", CALL, method, path, json.dumps(body) if body else "")
    return Answer(**json.loads(done.stdout)) if done.returncode == 0 else None


def wait_until(condition: Callable[[], bool], seconds: float, container: Container) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, container.output()
        time.sleep(0.2)


def is_ready(container: Container) -> bool:
    return (answer := call(container, "GET", "/ping")) is not None and answer.status == 200


@contextmanager
def serving(store: Store, image: str, folder: Path) -> Iterator[Container]:
    shutil.copytree(ROOT / "toyworld/base_model", folder / "ml/model")
    volumes = {folder / "ml": "/opt/ml"}
    with running(store, image, "serve", volumes=volumes, log=folder / "log", environment=ONE_THREAD) as container:
        wait_until(lambda: is_ready(container), 90, container)
        yield container


@pytest.fixture(scope="module")
def server(store: Store, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    with serving(store, images["inference_container"], tmp_path_factory.mktemp("serving")) as container:
        yield container


def picture_of(answer: Answer | None) -> Image.Image:
    assert answer is not None and answer.status == 200, answer
    (encoded,) = InferenceAnswer.model_validate(answer.body).generated_images
    return Image.open(io.BytesIO(base64.b64decode(str(encoded))))


def worker_of(container: Container) -> int:
    workers = [
        pid
        for pid in children(container.pid)
        if b"inference_container.worker" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]
    return workers[0] if workers else 0


def has_a_connection(container: Container) -> bool:
    """Of a client to port 8080, in the container's own network."""
    rows = [line.split() for line in Path(f"/proc/{container.pid}/net/tcp").read_text().splitlines()[1:]]
    return any(local.endswith(f":{8080:04X}") and state == "01" for _, local, _, state, *_ in rows)


def test_it_draws_a_picture(server: Container) -> None:
    picture = picture_of(call(server, "POST", "/invocations", REQUEST))
    assert picture.format == "PNG"
    colours = picture.convert("RGB").getcolors(2**20)
    assert colours is not None and len(colours) > 100


def test_a_request_that_is_none_is_the_callers_fault(server: Container) -> None:
    answer = call(server, "POST", "/invocations", {"prompt": "a dog", "num_inference_steps": "many"})
    assert answer is not None and answer.status == 400
    assert "num_inference_steps" in answer.body["cause"]


def test_after_its_worker_is_killed_it_answers_and_is_alive(server: Container) -> None:
    killed = worker_of(server)
    assert killed
    os.kill(killed, signal.SIGKILL)
    picture_of(call(server, "POST", "/invocations", REQUEST))
    assert is_ready(server)
    assert worker_of(server) not in (0, killed)


def test_sigterm_is_obeyed_once_the_running_request_has_its_answer(
    store: Store, images: dict[str, str], tmp_path: Path
) -> None:
    with serving(store, images["inference_container"], tmp_path) as container, ThreadPoolExecutor() as pool:
        request = pool.submit(call, container, "POST", "/invocations", {**REQUEST, "num_inference_steps": 100})
        wait_until(lambda: has_a_connection(container), 20, container)
        time.sleep(0.5)  # it is accepted; now it is read
        container.stop()
        stopped = time.monotonic()
        assert container.wait(30) == 0, container.output()
        assert time.monotonic() - stopped < 25
        picture_of(request.result())
