"""The Lambda Runtime API (version 2018-06-01) for one execution environment, over HTTP on the loopback interface."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LISTENING_POLL = 0.05  # seconds until a closed server's thread notices


@dataclass(frozen=True)
class Invocation:
    request_id: str
    payload: bytes


@dataclass(frozen=True)
class Report:
    """What the runtime reports. `kind`: ready | response | error | init-error | exit."""

    kind: str
    body: bytes = b""
    request_id: str = ""


def trace_root(request_id: str) -> str:
    """The SDK sends it along with every call that the invocation makes."""
    return f"1-00000000-{request_id.replace('-', '')[:24].lower():0<24}"


class RuntimeApi:
    """Hands invocations to the runtime, and its reports to `on_report`."""

    def __init__(self, function_arn: str, timeout: float, on_report: Callable[[Report], None]) -> None:
        self.function_arn = function_arn
        self.timeout = timeout
        self.on_report = on_report
        self.invocations: queue.Queue[Invocation] = queue.Queue()
        handler = type("Handler", (_Handler,), {"api": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False  # a thread may wait for the next invocation for ever
        serve = threading.Thread(target=self._server.serve_forever, args=(LISTENING_POLL,), daemon=True)
        serve.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    api: RuntimeApi
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # with it an invocation takes 44 ms instead of 2
    wbufsize = -1

    def do_GET(self) -> None:
        """`next`: blocks until there is work. The function's timeout starts when the runtime receives it."""
        self.api.on_report(Report("ready"))
        invocation = self.api.invocations.get()
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + self.api.timeout) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": self.api.function_arn,
            "Lambda-Runtime-Trace-Id": f"Root={trace_root(invocation.request_id)};Sampled=0",
        }
        self._reply(200, invocation.payload, headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        *_, subject, verb = self.path.split("/")
        if subject == "init":
            self.api.on_report(Report("init-error", body))
        else:
            self.api.on_report(Report(verb, body, subject))
        self._reply(202)

    def _reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        """A line for each request would drown the function's own log."""
