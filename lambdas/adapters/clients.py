"""AWS clients, made once per process and on first use."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import boto3
from botocore import exceptions
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import Session

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


# Lambda's runtime brings an SDK that may be months old. botocore merges *.sdk-extras.json into the models of its
# services: here the inline body of InvokeEndpointAsync, which botocore itself knows since 1.43.29 (June 2026).
_NEWER_SDK = Path(__file__).with_name("newer_sdk")


@cache
def client(service: str) -> Any:
    config = _S3_CONFIG if service == "s3" else CONFIG
    return _session().client(service, config=config)  # type: ignore[call-overload]


@cache
def _session() -> boto3.Session:
    session = Session()
    session.get_component("data_loader").search_paths.append(str(_NEWER_SDK))
    return boto3.Session(botocore_session=session)


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
