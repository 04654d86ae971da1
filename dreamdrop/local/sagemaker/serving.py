"""One serving process of an endpoint: model data, start, /ping, /invocations, end."""

from __future__ import annotations

import http.client
import shutil
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from dreamdrop.local.sagemaker.catalog import container_of
from dreamdrop.local.sagemaker.errors import StartFailure
from dreamdrop.local.sagemaker.platform import Platform
from dreamdrop.local.sagemaker.processes import ContainerProcess
from dreamdrop.local.sagemaker.s3 import download_archive, download_prefix, parse_location
from dreamdrop.local.sagemaker.store import Record

ADDITIONAL_MODEL_DATA = "additional-model-data-sources"
BIND_TO_PORT = "SAGEMAKER_BIND_TO_PORT"
BIND_TO_ADDRESS = "BIND_TO_ADDRESS"  # ours: SageMaker calls a container from outside
HOST = "127.0.0.1"
_PING_SECONDS = 2.0
_POLL_SECONDS = 0.05
_LOG_TAIL_CHARACTERS = 600


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


class NotAccepted(Exception):
    """The process did not take the request at all: it may be given to another."""


class NoAnswer(Exception):
    """The process took the request and was lost, or took too long."""


class ServingInstance:
    """`deployment` is what it serves: {"Config": EndpointConfig record, "Model": Model record}."""

    def __init__(self, platform: Platform, endpoint: str, deployment: Record) -> None:
        self.deployment = deployment
        self._platform = platform
        self._container = container_of(deployment["Model"])
        self._directory = platform.work / "endpoints" / endpoint
        self._base = self._directory / f"instance-{time.time_ns()}"
        self._log = self._directory / "log.txt"
        self._process: ContainerProcess | None = None
        self._port = 0
        self._in_flight = 0
        self._changed = threading.Condition()
        self.retired = False
        self.served = 0
        """Answers since the last start."""

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive

    def prepare(self) -> None:
        """Brings the model data. Raises ClientFailure."""
        (self._base / "model").mkdir(parents=True)
        s3 = self._platform.roles.client(self._deployment_role, "s3")
        if source := self._container.get("ModelDataSource", {}).get("S3DataSource"):
            _fetch(s3, source, self._base / "model")
        elif "ModelDataUrl" in self._container:
            download_archive(s3, parse_location(self._container["ModelDataUrl"]), self._base / "model")
        for additional in self._container.get("AdditionalModelDataSources", []):
            target = self._base / ADDITIONAL_MODEL_DATA / additional["ChannelName"]
            target.mkdir(parents=True)
            _fetch(s3, additional["S3DataSource"], target)

    def start(self, tick: Callable[[], None]) -> None:
        """Starts the process and waits for /ping; `tick` is called meanwhile and may raise.

        Raises StartFailure, ClientFailure, ImageError, EngineStopped.
        """
        self._end_process(0)
        self.served = 0
        with socket.socket() as free:
            free.bind((HOST, 0))
            self._port = free.getsockname()[1]
        self._process = self._platform.processes.start(
            self._platform.resolve_image(self._container["Image"]), "serve", self._base, self._environment(), self._log
        )
        deadline = time.monotonic() + self._platform.settings.startup_seconds
        while not self._answers_ping():
            tick()
            code = self._process.wait(_POLL_SECONDS)
            if code is not None:
                raise StartFailure(f"The container ended with exit code {code} before /ping answered. {self._tail()}")
            if time.monotonic() > deadline:
                self._end_process(0)
                raise StartFailure(f"The container did not pass the ping health check in time. {self._tail()}")

    def invoke(self, body: bytes, headers: dict[str, str], timeout_seconds: float) -> Answer:
        """POST /invocations. Raises NotAccepted, NoAnswer."""
        with self._changed:
            if self.retired:
                raise NotAccepted
            self._in_flight += 1
        try:
            answer = self._post(body, headers, timeout_seconds)
            self.served += 1
            return answer
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def retire(self, grace_seconds: float) -> None:
        """Takes no more work, ends what it has, then goes. Its directory goes with it."""
        deadline = time.monotonic() + grace_seconds
        with self._changed:
            self.retired = True  # under the lock: whatever began before is waited for, nothing begins after
            while self._in_flight and self.alive and time.monotonic() < deadline:
                self._platform.leave_if_closing()
                self._changed.wait(0.1)
        self._end_process(grace_seconds)
        shutil.rmtree(self._base, ignore_errors=True)

    @property
    def _deployment_role(self) -> str:
        role: str = self.deployment["Model"]["ExecutionRoleArn"]
        return role

    def _environment(self) -> dict[str, str]:
        isolated = self.deployment["Model"].get("EnableNetworkIsolation", False)  # then there are no credentials
        return {
            **({} if isolated else self._platform.roles.environment(self._deployment_role)),
            **self._container.get("Environment", {}),
            BIND_TO_PORT: str(self._port),
            BIND_TO_ADDRESS: HOST,
        }

    def _answers_ping(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=_PING_SECONDS)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _post(self, body: bytes, headers: dict[str, str], timeout_seconds: float) -> Answer:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=timeout_seconds)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise NotAccepted from error
            connection.request("POST", "/invocations", body, headers)
            response = connection.getresponse()
            answer_headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, answer_headers, response.read())
        except TimeoutError as error:
            raise NoAnswer(f"Model invocation timed out after {timeout_seconds:g} seconds.") from error
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(self._why_lost(error)) from error
        finally:
            connection.close()

    def _why_lost(self, error: Exception) -> str:
        code = self._process.wait(1) if self._process else None
        if code is None:
            return f"The model container broke the connection before it answered ({error})."
        return f"The model container stopped before it answered, exit code: {code}."

    def _end_process(self, grace_seconds: float) -> None:
        if self._process:
            self._process.stop(grace_seconds)
            self._platform.processes.forget(self._process)

    def _tail(self) -> str:
        return f"End of {self._log}: {_end_of(self._log)}"


def _fetch(s3: Any, source: Record, target: Path) -> None:
    """An S3DataSource. Raises ClientFailure."""
    download = download_prefix if source["CompressionType"] == "None" else download_archive
    download(s3, parse_location(source["S3Uri"]), target)


def discard_leftovers(platform: Platform, endpoint: str) -> None:
    """Removes the model data of instances of a former engine; the log stays."""
    for directory in (platform.work / "endpoints" / endpoint).glob("instance-*"):
        shutil.rmtree(directory, ignore_errors=True)


def _end_of(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - _LOG_TAIL_CHARACTERS, 0))
        return file.read().decode(errors="replace").strip()
