"""AWS over HTTP for programs that run in processes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib import request

from moto.server import ThreadedMotoServer


@contextmanager
def moto_server() -> Iterator[str]:
    """Its address. All servers of one process share one state, so each starts by clearing it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    request.urlopen(f"{url}/moto-api/reset", data=b"").close()
    try:
        yield url
    finally:
        server.stop()
