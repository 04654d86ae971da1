"""The HTTP API as a function call: requests signed or with a token, answers parsed, failures raised as typed errors.

Beside it, what the API's presigned addresses are for: pictures fetched and source pictures stored.
"""

from __future__ import annotations

import json
import time
from typing import Any, Literal

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.exceptions import ConnectionError as NoConnection
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session
from pydantic import ValidationError

from contracts.errors import ERRORS_BY_CODE, DreamdropError, ErrorReport, InternalError, Unauthenticated
from dreamdrop.deployment import TOKEN_VARIABLE, Deployment, NoDeployment

TIMEOUT_SECONDS = 35  # an HTTP API answers within 30 seconds or not at all
UPLOAD_TIMEOUT_SECONDS = 300
ATTEMPTS = 4
PAUSE_SECONDS = 0.5  # doubled after each attempt
TRANSIENT_STATUSES = frozenset({429, 500, 502, 503, 504})


class Unreachable(DreamdropError):
    """Nothing answered at the address of the API or of a picture."""

    code = "unreachable"
    status = 503
    default_cure = "Check the network; for the local cloud see: dreamdrop status"


def error_from(report: ErrorReport) -> DreamdropError:
    """The exception with the report's code; a code of a newer version becomes InternalError that names it."""
    kind = ERRORS_BY_CODE.get(report.code)
    if kind is None:
        return InternalError(f"{report.code}: {report.cause}", report.cure)
    return kind(report.cause, report.cure)


class Api:
    """Requests to one deployment. Every request here may be repeated safely, so transient failures are."""

    def __init__(self, deployment: Deployment) -> None:
        self._base = deployment.api_url.rstrip("/")
        self._session = deployment.session()
        self._region = deployment.region
        self._token = deployment.token
        self._http = URLLib3Session(timeout=TIMEOUT_SECONDS)

    def call(
        self,
        method: Literal["GET", "POST", "DELETE"],
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Returns the parsed JSON. Raises the DreamdropError that the API names, Unauthenticated or Unreachable."""
        content = b"" if body is None else json.dumps(body).encode()
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS
            try:
                response = self._send(method, path, content, headers or {})
            except (HTTPClientError, NoConnection) as error:
                if last:
                    raise Unreachable(f"No answer from {self._base}: {error}") from error
            else:
                if response.status_code < 300:
                    return json.loads(response.content)
                if last or response.status_code not in TRANSIENT_STATUSES:
                    raise _refusal(response)
            time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")

    def _send(self, method: str, path: str, content: bytes, headers: dict[str, str]) -> AWSResponse:
        request = AWSRequest(
            method, self._base + path, headers={"content-type": "application/json"} | headers, data=content
        )
        if self._token:
            request.headers["authorization"] = f"Bearer {self._token.get_secret_value()}"
        else:
            self._sign(request)
        return self._http.send(request.prepare())

    def _sign(self, request: AWSRequest) -> None:
        credentials = self._session.get_credentials()
        if credentials is None:
            raise NoDeployment("No AWS credentials were found.", "Configure them (aws configure, aws sso login).")
        SigV4Auth(credentials.get_frozen_credentials(), "execute-api", self._region).add_auth(request)


def fetch(url: str) -> bytes:
    """The bytes behind a presigned URL. Raises Unreachable, also when the URL has expired."""
    response = _send_presigned(AWSRequest("GET", url), TIMEOUT_SECONDS)
    if response.status_code != 200:
        raise Unreachable(
            f"The picture could not be fetched (HTTP {response.status_code}).",
            "Ask for the generation again: its pictures then have fresh addresses.",
        )
    return bytes(response.content)


def store(url: str, content: bytes) -> None:
    """Puts the bytes behind a presigned URL. Raises Unreachable, also when the URL has expired."""
    response = _send_presigned(AWSRequest("PUT", url, data=content), UPLOAD_TIMEOUT_SECONDS)
    if response.status_code != 200:
        raise Unreachable(f"The picture could not be uploaded (HTTP {response.status_code}).", "Upload it again.")


def _send_presigned(request: AWSRequest, timeout_seconds: int) -> AWSResponse:
    try:
        return URLLib3Session(timeout=timeout_seconds).send(request.prepare())
    except (HTTPClientError, NoConnection) as error:
        raise Unreachable(f"No answer for the picture: {error}") from error


def _refusal(response: AWSResponse) -> DreamdropError:
    """Reads {"error": {code, cause, cure}}; anything else was answered before the request reached our code."""
    try:
        return error_from(ErrorReport.model_validate(json.loads(response.content)["error"]))
    except (ValueError, KeyError, TypeError, ValidationError):
        answer = response.content[:200].decode(errors="replace")
    if response.status_code in (401, 403):
        return Unauthenticated(
            f"The API refused the caller (HTTP {response.status_code}: {answer}).",
            "Use credentials whose policy allows execute-api:Invoke on this API; or, if it wants tokens of an issuer, "
            f"put one that is still valid into {TOKEN_VARIABLE}.",
        )
    return InternalError(f"The API answered HTTP {response.status_code}: {answer}")
