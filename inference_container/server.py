"""SageMaker's HTTP contract: GET /ping and POST /invocations. Light: the drawing is done by another process."""

from __future__ import annotations

import logging
import signal
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from contracts.errors import DreamdropError, EndpointBusy, InternalError, InvalidRequest
from inference_container.dispatch import Dispatcher
from inference_container.payload import parse_invocation
from inference_container.platform import DRAIN_SECONDS, Platform
from inference_container.worker_process import WorkerProcess

MAX_BODY_BYTES = 6 * 1024 * 1024  # InvokeEndpoint's own limit
SILENCE_SECONDS = 60.0
WAKE_SECONDS = 0.2
_ROUTES = {"/ping": "GET", "/invocations": "POST"}

_log = logging.getLogger(__name__)


class _LengthRequired(InvalidRequest):
    status = HTTPStatus.LENGTH_REQUIRED
    default_cure = "Send the body with a Content-Length header."


class _TooLarge(InvalidRequest):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    default_cure = "A request is a short JSON document; send that."


class _NoSuchRoute(InvalidRequest):
    status = HTTPStatus.NOT_FOUND
    default_cure = "Use GET /ping or POST /invocations."


class _WrongMethod(InvalidRequest):
    status = HTTPStatus.METHOD_NOT_ALLOWED
    default_cure = "Use GET /ping or POST /invocations."


class InferenceServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, worker: WorkerProcess, dispatcher: Dispatcher) -> None:
        self.worker = worker
        self.dispatcher = dispatcher
        self.stopping = False
        self._in_flight = 0
        self._changed = threading.Condition()
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        """Without HTTPServer's reverse look-up of the host's name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        if isinstance(error, OSError):
            _log.info("%s went away: %s", client_address, error)
        else:
            _log.error("a connection failed", exc_info=error)

    @contextmanager
    def one_in_flight(self) -> Iterator[None]:
        with self._changed:
            self._in_flight += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def drain(self, seconds: float) -> bool:
        """True once every request has its answer; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight == 0, seconds)


class Handler(BaseHTTPRequestHandler):
    server: InferenceServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = SILENCE_SECONDS

    def do_GET(self) -> None:
        self._route("GET")

    def do_POST(self) -> None:
        self._route("POST")

    def _route(self, method: str) -> None:
        path = self.path.partition("?")[0]
        if (method, path) == ("POST", "/invocations"):
            with self.server.one_in_flight():
                self._invoke()
            return
        has_body = self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers
        self.close_connection = self.close_connection or has_body  # nobody reads it
        if path not in _ROUTES:
            self._refuse(_NoSuchRoute(f"path: {path[:80]!r} is not served."))
        elif method != _ROUTES[path]:
            self._refuse(_WrongMethod(f"method: {path} takes {_ROUTES[path]} only."))
        else:
            self._respond(HTTPStatus.OK if self.server.worker.ready else HTTPStatus.SERVICE_UNAVAILABLE, b"{}")

    def _invoke(self) -> None:
        try:
            if self.server.stopping:
                raise EndpointBusy("The server is stopping.")
            body = self._read_body()
            invocation = parse_invocation(self.headers.get("Content-Type"), self.headers.get("Accept"), body)
            answer = self.server.dispatcher.draw(invocation)
        except DreamdropError as error:
            self._refuse(error)
        except OSError:
            raise
        except Exception:  # noqa: BLE001  the boundary of a request: whatever it was, the caller is told
            _log.exception("a request failed")
            self._refuse(InternalError("The server failed to handle the request."))
        else:
            self._respond(answer.status, answer.body)

    def _read_body(self) -> bytes:
        """Raises InvalidRequest. After a body that was not read, the connection cannot be used again."""
        self.close_connection, keep_alive = True, not self.close_connection
        declared = self.headers.get("Content-Length")
        if declared is None or "Transfer-Encoding" in self.headers:
            raise _LengthRequired("Content-Length: missing.")
        if not (declared.isascii() and declared.isdecimal()):
            raise InvalidRequest(f"Content-Length: {declared[:40]!r} is not a length.")
        if len(declared) > 12 or int(declared) > MAX_BODY_BYTES:
            raise _TooLarge(f"body: {declared[:20]} bytes are more than {MAX_BODY_BYTES}.")
        try:
            body = self.rfile.read(int(declared))
        except TimeoutError as error:
            raise InvalidRequest("body: did not arrive in time.") from error
        if len(body) < int(declared):
            raise InvalidRequest(f"body: ended after {len(body)} of {declared} bytes.")
        self.close_connection = not keep_alive
        return body

    def _refuse(self, error: DreamdropError) -> None:
        (_log.error if error.status >= 500 else _log.info)("%d %s", error.status, error)
        self._respond(error.status, error.report.model_dump_json().encode())

    def _respond(self, status: int, body: bytes) -> None:
        self.close_connection = self.close_connection or self.server.stopping
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", _ROUTES.get(self.path.partition("?")[0], ", ".join(set(_ROUTES.values()))))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library refuses by itself: malformed request lines, unknown methods."""
        self.close_connection = True
        self.request_version = self.protocol_version  # unknown yet: without it the headers would be left out
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self._refuse(_WrongMethod(f"method: {str(self.command)[:40]!r} is not served."))
            return
        error = InvalidRequest(f"request: {message or HTTPStatus(code).phrase}.", "Send well-formed HTTP/1.1.")
        self.headers = getattr(self, "headers", None) or self.MessageClass()
        self._respond(code, error.report.model_dump_json().encode())

    def version_string(self) -> str:
        return "dreamdrop"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is the standard library's
        _log.debug(format, *args)


def serve(platform: Platform) -> int:
    """Serves until SIGTERM or SIGINT, then finishes what is in flight. Returns the exit code of the program."""
    stop = threading.Event()
    hopeless = threading.Event()

    def give_up() -> None:
        hopeless.set()
        stop.set()

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    worker = WorkerProcess(on_hopeless=give_up)
    worker.start()
    dispatcher = Dispatcher(worker)
    dispatcher.start()
    server = InferenceServer(platform.host, platform.port, worker, dispatcher)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    _log.info("listening on %s:%d", platform.host, server.server_port)
    while not stop.wait(WAKE_SECONDS):  # a signal that another thread took is handled only when this one wakes
        pass
    server.stopping = True
    server.shutdown()
    server.server_close()
    drained = server.drain(DRAIN_SECONDS)
    worker.stop()
    if not drained:
        _log.error("a request was cut off by the end of the server")
        server.drain(1.0)  # its caller is still told
    return 1 if hopeless.is_set() else 0
