"""AWS clients, made once per process and on first use."""

from __future__ import annotations

from functools import cache
from typing import Any

import boto3
from botocore import exceptions
from botocore.config import Config
from botocore.exceptions import ClientError

CONFIG = Config(retries={"mode": "standard", "max_attempts": 4}, connect_timeout=5, read_timeout=20)

_NOT_NOW = (
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "ProvisionedThroughputExceededException",
    "TransactionInProgressException",
    "TransactionConflictException",
    "RequestTimeout",
    "RequestTimeoutException",
)
_NOT_NOW_FOR_ONE = {"None", "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded"}
_BROKEN = (exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError)

# Presigned addresses need the newer signature in every region, and the region's own host: the global one redirects
# requests for a new bucket elsewhere, where the signature does not hold.
_S3_CONFIG = CONFIG.merge(Config(signature_version="s3v4", s3={"addressing_style": "virtual"}))


@cache
def client(service: str) -> Any:
    return boto3.client(service, config=_S3_CONFIG if service == "s3" else CONFIG)  # type: ignore[call-overload]


def is_transient(error: Exception) -> bool:
    """Throttling, another writer at the same row, a service that fails or is away, a broken connection: the same call
    may succeed a moment later."""
    if isinstance(error, exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        reasons = cancellation_reasons(error)
        is_busy = bool(reasons) and reasons <= _NOT_NOW_FOR_ONE
        return status == 429 or status >= 500 or error_code(error) in _NOT_NOW or is_busy
    return isinstance(error, _BROKEN)


def unless_gone(service: str, operation: str, **request: Any) -> None:
    """Removes something, unless somebody has."""
    try:
        getattr(client(service), operation)(**request)
    except ClientError as error:
        if not is_gone(error):
            raise


def is_gone(error: ClientError) -> bool:
    code, text = error_code(error), str(error)
    named = code in ("ObjectNotFoundException", "ResourceNotFound")
    told = ("not find", "No scalable target found", "Requested resource not found")  # SageMaker: ValidationException
    return named or any(words in text for words in told)


def error_code(error: Exception) -> str:
    """The code of a botocore ClientError."""
    response: dict[str, Any] = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))


def cancellation_reasons(error: Exception) -> set[str]:
    """Of a cancelled transaction, one an item; empty for any other error."""
    response: dict[str, Any] = getattr(error, "response", {})
    return {str(reason.get("Code")) for reason in response.get("CancellationReasons", [])}
