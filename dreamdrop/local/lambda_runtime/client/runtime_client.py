"""Talks to the Lambda Runtime API (version 2018-06-01) for awslambdaric, in plain Python.

awslambdaric imports a native module of this name, which exists on Linux only and crashes on an answer that lacks a
header. This folder comes first on the path of every function process, so this module is found instead.
"""

from __future__ import annotations

import http.client
import os
from typing import Any

_API = "/2018-06-01/runtime/"
_connection: http.client.HTTPConnection | None = None


def initialize_client(user_agent: str) -> None:
    """Nothing to prepare: the connection opens with the first request."""


def _request(method: str, path: str, body: bytes | str | None = None) -> tuple[dict[str, Any], bytes]:
    """Raises SystemExit when the Runtime API is gone: the environment has been closed."""
    global _connection
    if isinstance(body, str):
        body = body.encode()
    headers = {} if body is None else {"Content-Type": "application/json"}
    try:
        if _connection is None:
            _connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
        _connection.request(method, _API + path, body, headers)
        response = _connection.getresponse()
        return dict(response.getheaders()), response.read()
    except (http.client.HTTPException, OSError):
        raise SystemExit(0) from None


def next() -> tuple[bytes, dict[str, Any]]:  # noqa: A001 - the name that awslambdaric calls
    headers, body = _request("GET", "invocation/next")
    headers["Lambda-Runtime-Deadline-Ms"] = int(headers["Lambda-Runtime-Deadline-Ms"])
    return body, headers


def post_invocation_result(request_id: str, data: bytes | str, content_type: str = "", *rest: object) -> None:
    _request("POST", f"invocation/{request_id}/response", data)


def post_error(request_id: str, data: bytes | str, xray_fault: str = "", *rest: object) -> None:
    _request("POST", f"invocation/{request_id}/error", data)
