"""AWS clients, made once per process and on first use."""

from __future__ import annotations

from functools import cache
from typing import Any

import boto3
from botocore.config import Config

_CONFIG = Config(retries={"mode": "standard", "max_attempts": 4}, connect_timeout=5, read_timeout=20)


# Presigned addresses need the newer signature in every region, and the region's own host: the global one redirects
# requests for a new bucket elsewhere, where the signature does not hold.
_S3_CONFIG = _CONFIG.merge(Config(signature_version="s3v4", s3={"addressing_style": "virtual"}))


@cache
def client(service: str) -> Any:
    return boto3.client(service, config=_S3_CONFIG if service == "s3" else _CONFIG)  # type: ignore[call-overload]


def is_transient(error: Exception) -> bool:
    """Throttling, an unavailable service, a broken connection: the same call may succeed a moment later."""
    response: dict[str, Any] | None = getattr(error, "response", None)
    if response is None:
        return True
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status in (429, 503) or error_code(error) in ("ThrottlingException", "Throttling", "ServiceUnavailable")


def error_code(error: Exception) -> str:
    """The code of a botocore ClientError."""
    response: dict[str, Any] = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))
