"""Our server and its peers as processes: started, asked, weighed and ended, each in the same way."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from benchmarks.generate_plan import Request
from benchmarks.generate_subjects import BUCKET, Subject
from benchmarks.machine import Device, peak_resident, processor_seconds
from contracts.generation import InferenceAnswer

REPOSITORY = Path(__file__).resolve().parents[1]
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_DEFAULT_REGION": "us-east-1",
}
HEADERS = {"Content-Type": "application/json", "Accept": "application/json;png"}
MEBIBYTE = 2**20
PING_SECONDS = 0.02
READY_SECONDS = 300.0
ANSWER_SECONDS = 900.0
TOLD_OF_A_FAILURE = 3000  # characters


class SideFailed(Exception):
    """It did not start, died, or refused a request."""


@dataclass(frozen=True)
class Place:
    """What one process of a side needs."""

    base_model: Path
    folder: Path  # of its own: logs, and what it fetches
    device: Device
    bucket_address: str
    subjects: Sequence[Subject]

    def environment(self) -> dict[str, str]:
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if self.device == "cpu" else {}
        bucket = {"DATA_BUCKET": BUCKET, "AWS_ENDPOINT_URL": self.bucket_address}
        return {**os.environ, **CREDENTIALS, **bucket, "HF_HUB_OFFLINE": "1", **hidden}


@dataclass(frozen=True)
class Drawn:
    seconds: float  # from asking to the last answer
    pictures: Sequence[bytes]  # PNG
    select_seconds: Sequence[float] = ()  # of each request, where the side tells them
    gpu_peak_bytes: int = 0


class Running(Protocol):
    ready_seconds: float  # since its process was started

    def draw(self, requests: Sequence[Request]) -> Drawn:
        """All of them wait at once."""

    def processes(self) -> list[int]: ...


# ---- ours


@dataclass
class OurServer:
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    ready_seconds: float = 0.0

    def draw(self, requests: Sequence[Request]) -> Drawn:
        started = time.monotonic()
        with ThreadPoolExecutor(len(requests)) as callers:
            answers = list(callers.map(self._ask, requests))
        seconds = time.monotonic() - started
        encoded = [InferenceAnswer.model_validate_json(answer).generated_images[0] for answer in answers]
        return Drawn(seconds, [*map(base64.b64decode, encoded)])

    def processes(self) -> list[int]:
        """The server and its worker."""
        return family_of(self.process.pid)

    def is_ready(self) -> bool:
        """Raises SideFailed if it has ended."""
        if self.process.poll() is not None:
            raise SideFailed(end_of(self.log))
        try:
            return self._call("GET", "/ping", None)[0] == http.HTTPStatus.OK
        except OSError:
            return False

    def _ask(self, request: Request) -> bytes:
        payload = request.to_payload().model_dump_json(exclude_unset=True)
        status, body = self._call("POST", "/invocations", payload)
        if status != http.HTTPStatus.OK:
            raise SideFailed(f"{status} {body.decode()}\n{end_of(self.log)}")
        return body

    def _call(self, method: str, path: str, body: str | None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        try:
            connection.request(method, path, body, HEADERS)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@contextmanager
def our_server(place: Place) -> Iterator[OurServer]:
    """`serve`, as SageMaker starts it; ready."""
    place.folder.mkdir(parents=True, exist_ok=True)
    if not (place.folder / "model").exists():
        (place.folder / "model").symlink_to(place.base_model.resolve())
    port = free_port()
    told = {
        "SAGEMAKER_BASE_DIR": str(place.folder.resolve()), "SAGEMAKER_BIND_TO_PORT": str(port),
        "BIND_TO_ADDRESS": "127.0.0.1",
    }  # fmt: skip
    log = place.folder / "ours.log"
    started = time.monotonic()
    with (
        log.open("wb") as written,
        subprocess.Popen(
            [sys.executable, "-m", "inference_container", "serve"],
            cwd=REPOSITORY,
            env=place.environment() | told,
            stdout=written,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        server = OurServer(process, port, log)
        try:
            while not server.is_ready():
                if time.monotonic() - started > READY_SECONDS:
                    raise SideFailed(end_of(log))
                time.sleep(PING_SECONDS)
            server.ready_seconds = time.monotonic() - started
            yield server
        finally:
            process.terminate()


# ---- its peers


@dataclass
class Peer:
    process: subprocess.Popen[str]
    log: Path
    ready_seconds: float = 0.0

    def draw(self, requests: Sequence[Request]) -> Drawn:
        started = time.monotonic()
        if self.process.stdin:
            with suppress(BrokenPipeError):  # then there will be no answer either
                self.process.stdin.write(json.dumps([asdict(request) for request in requests]) + "\n")
                self.process.stdin.flush()
        answer = self.read()
        seconds = time.monotonic() - started
        pictures = [*map(base64.b64decode, answer["pictures"])]
        return Drawn(seconds, pictures, answer["select_seconds"], answer["gpu_peak_bytes"])

    def processes(self) -> list[int]:
        return [self.process.pid]

    def read(self) -> dict[str, Any]:
        """The next answer. Raises SideFailed if there will be none."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise SideFailed(end_of(self.log))
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def peer(place: Place, *, keep: bool) -> Iterator[Peer]:
    """diffusers' pipeline, ready. keep: what was loaded stays."""
    place.folder.mkdir(parents=True, exist_ok=True)
    subjects = {one.name: [one.method, str(one.directory.resolve())] for one in place.subjects}
    asked = {"base": str(place.base_model.resolve()), "keep": keep, "subjects": subjects}
    log = place.folder / "peer.log"
    started = time.monotonic()
    with (
        log.open("w", encoding="utf-8") as written,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.generate_peer", json.dumps(asked)],
            cwd=REPOSITORY,
            env=place.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=written,
            text=True,
        ) as process,
    ):
        running = Peer(process, log)
        try:
            running.read()
            running.ready_seconds = time.monotonic() - started
            yield running
        finally:
            process.terminate()


pipeline, classic = partial(peer, keep=True), partial(peer, keep=False)


# ---- processes


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def family_of(process: int) -> list[int]:
    """The process and its children."""
    children: list[int] = []
    for task in Path(f"/proc/{process}/task").iterdir():
        with suppress(OSError):  # a thread that has just ended
            children += map(int, (task / "children").read_text().split())
    return [process, *children]


def peak_mib_of(running: Running) -> float:
    """What several processes have mapped is counted for each."""
    bytes_each = [peak_resident(Path(f"/proc/{process}/status").read_text()) for process in running.processes()]
    return sum(bytes_each) / MEBIBYTE


def processor_seconds_of(running: Running) -> float:
    """So far, to a hundredth."""
    return sum(processor_seconds(Path(f"/proc/{process}/stat").read_text()) for process in running.processes())


def end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-TOLD_OF_A_FAILURE:]
