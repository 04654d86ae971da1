"""Which failures of AWS may pass, so that the same call is tried again a little later."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    IncompleteReadError,
    ParamValidationError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from lambdas.adapters.clients import is_transient


def answered(status: int, code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetItem")


def cancelled(*reasons: str) -> ClientError:
    answer: Any = {
        "Error": {"Code": "TransactionCanceledException"},
        "ResponseMetadata": {"HTTPStatusCode": 400},
        "CancellationReasons": [{"Code": reason} for reason in reasons],
    }
    return ClientError(answer, "TransactWriteItems")


@pytest.mark.parametrize(
    "error",
    [
        answered(400, "ThrottlingException"),
        answered(400, "TransactionConflictException"),
        cancelled("None", "TransactionConflict"),
        cancelled("ThrottlingError", "None", "TransactionConflict"),
        answered(400, "ProvisionedThroughputExceededException"),
        answered(429, "TooManyRequests"),
        answered(500, "InternalServerError"),
        answered(503, "SlowDown"),
        EndpointConnectionError(endpoint_url="https://x"),
        ConnectTimeoutError(endpoint_url="https://x"),
        ReadTimeoutError(endpoint_url="https://x"),
        ResponseStreamingError(error="broken"),
        IncompleteReadError(actual_bytes=1, expected_bytes=2),
    ],
)
def test_what_may_pass(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        answered(400, "ValidationException"),
        answered(400, "TransactionCanceledException"),
        cancelled("ConditionalCheckFailed", "TransactionConflict"),
        cancelled("None", "ValidationError"),
        answered(403, "AccessDeniedException"),
        answered(404, "NoSuchKey"),
        ParamValidationError(report="x"),
        KeyError("x"),
        OSError("no space left on device"),
    ],
)
def test_what_stays_wrong(error: Exception) -> None:
    assert not is_transient(error)
