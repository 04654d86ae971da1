"""A bucket over HTTP: as much of S3 as the serving container reads, which is a folder's files, whole or in ranges.

It sends files as they lie on the disk. moto would copy a whole file of gigabytes into memory for each range of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

NO_SUCH_KEY = b"<Error><Code>NoSuchKey</Code><Message>There is no such key.</Message></Error>"


class _Bucket(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(("127.0.0.1", 0), _Reader)


class _Reader(BaseHTTPRequestHandler):
    server: _Bucket
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        path = self._file()
        if not path.is_file():
            self._begin(HTTPStatus.NOT_FOUND, len(NO_SUCH_KEY))
            self.wfile.write(NO_SUCH_KEY)
            return
        size = path.stat().st_size
        first, count = span_of(self.headers.get("Range"), size)
        told = {"ETag": f'"{path.stat().st_mtime_ns:x}"', "Last-Modified": formatdate(usegmt=True)}
        if count < size:
            told["Content-Range"] = f"bytes {first}-{first + count - 1}/{size}"
        self._begin(HTTPStatus.PARTIAL_CONTENT if count < size else HTTPStatus.OK, count, told)
        if self.command == "GET" and count:
            with path.open("rb") as file:
                self.connection.sendfile(file, first, count)

    def do_HEAD(self) -> None:
        self.do_GET() if self._file().is_file() else self._begin(HTTPStatus.NOT_FOUND, 0)

    def _file(self) -> Path:
        return self.server.folder / unquote(urlsplit(self.path).path).lstrip("/")

    def _begin(self, status: HTTPStatus, length: int, told: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **(told or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the standard library's
        """Nobody reads a line for each request."""


def span_of(asked: str | None, size: int) -> tuple[int, int]:
    """Where to begin, and how many bytes: of 'bytes=16-31', 'bytes=16-' or no Range at all."""
    if asked is None:
        return 0, size
    first, _, last = asked.removeprefix("bytes=").partition("-")
    end = min(size, int(last) + 1) if last else size
    return int(first), end - int(first)


@contextmanager
def bucket_server(folder: Path) -> Iterator[str]:
    """Its address; the first part of a path is the bucket's name."""
    server = _Bucket(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
