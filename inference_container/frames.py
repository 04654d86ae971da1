"""Messages between the server process and its worker process: a JSON header and raw bytes, each with its length."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any, NamedTuple

_LENGTHS = struct.Struct(">IQ")  # bytes of the header, bytes of the body


class ConnectionClosed(ConnectionError):
    """The other process has ended."""


class Frame(NamedTuple):
    header: dict[str, Any]
    body: bytes


def send(connection: socket.socket, header: dict[str, Any], body: bytes = b"") -> None:
    """Raises OSError when the other process has ended."""
    encoded = json.dumps(header).encode()
    connection.sendall(_LENGTHS.pack(len(encoded), len(body)) + encoded)
    connection.sendall(body)


def receive(connection: socket.socket) -> Frame:
    """Waits for one message. Raises ConnectionClosed, or TimeoutError if the connection has a timeout."""
    header_length, body_length = _LENGTHS.unpack(_read(connection, _LENGTHS.size))
    header = json.loads(_read(connection, header_length))
    return Frame(header, _read(connection, body_length))


def _read(connection: socket.socket, length: int) -> bytes:
    content = bytearray(length)
    missing = memoryview(content)
    while missing:
        count = connection.recv_into(missing)
        if not count:
            raise ConnectionClosed("the other process has ended")
        missing = missing[count:]
    return bytes(content)
