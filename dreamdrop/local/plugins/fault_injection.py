"""Makes calls go wrong as `faults` says: those that come over HTTP, and those of Step Functions, which are made here.

Only in a local cloud that was started with --faults. PUT, GET and DELETE of CONTROL_PATH add, list and forget faults.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from ministack.core import iam_actions, router
from ministack.services import stepfunctions as sfn
from pydantic import TypeAdapter, ValidationError

from dreamdrop.local.faults import PROVISION, RUN_JOB, STATE_MACHINE, Call, Fault, Faults, KnownFault
from dreamdrop.local.plugins.functions import Functions
from dreamdrop.local.sagemaker import LocalSageMaker

CONTROL_PATH = "/_dreamdrop/faults"
CAPACITY_REASON = (  # as AWS says it
    "CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type."
)

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_TRACE = re.compile(r"Root=([^;]+)")
_IAM_NAMES = {"monitoring": "cloudwatch"}
_LIST = TypeAdapter(list[Fault])
_KNOWN = TypeAdapter(list[KnownFault])


class _Refusal(NamedTuple):
    status: int
    code: str


_REFUSALS = {
    "throttled": _Refusal(400, "ThrottlingException"),
    "error": _Refusal(500, "InternalServerError"),
    "unavailable": _Refusal(503, "ServiceUnavailable"),
}
_S3_REFUSALS = {
    "throttled": _Refusal(503, "SlowDown"),
    "error": _Refusal(500, "InternalError"),
    "unavailable": _Refusal(503, "ServiceUnavailable"),
}
# What Step Functions calls the same failures: of lambda:invoke, and of any other service.
_TASK_ERRORS = {
    "throttled": ("Lambda.TooManyRequestsException", "ThrottlingException"),
    "error": ("Lambda.ServiceException", "InternalServerException"),
    "unavailable": ("Lambda.ServiceException", "ServiceUnavailableException"),
    "unanswered": ("Lambda.SdkClientException", "SdkClientException"),
    "answer lost": ("Lambda.SdkClientException", "SdkClientException"),
}


class ConnectionBroken(Exception):
    """Leaves the application after the head of an answer: the server can only close the connection."""


class FaultGate:
    """Stands before the application."""

    def __init__(self, application: Application, faults: Faults, functions: Functions) -> None:
        self._application = application
        self._faults = faults
        self._functions = functions

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        body = await _whole(receive)
        if scope["path"] == CONTROL_PATH:
            await _reply(send, *self._control(scope["method"], body))
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        trace = _TRACE.search(headers.get("x-amzn-trace-id", ""))
        caller = self._functions.serving(trace[1]) if trace else None
        call = _call(scope, headers, body, caller.spec.name if caller else "")
        fault = self._faults.meet(call)
        if fault is None:
            await self._application(scope, _again(body, receive), send)
        elif fault.kind in _REFUSALS:
            await _reply(send, *_refusal(fault, headers, call.action))
        elif fault.kind == "late":
            await asyncio.sleep(fault.seconds)
            await self._application(scope, _again(body, receive), send)
        else:
            if fault.kind == "caller killed" and caller:
                caller.kill()
            if fault.kind == "answer lost":
                await self._application(scope, _again(body, receive), _to_nobody)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
            raise ConnectionBroken

    def _control(self, method: str, body: bytes) -> tuple[int, str, bytes]:
        try:
            if method == "PUT":
                self._faults.add(_LIST.validate_json(body))
        except ValidationError as error:
            return 400, "text/plain", str(error).encode()
        if method == "DELETE":
            self._faults.clear()
        return 200, "application/json", _KNOWN.dump_json(self._faults.known())


def install(faults: Faults, engine: LocalSageMaker) -> None:
    _step_functions(faults)

    def refuse_instance(job: dict[str, Any]) -> str | None:
        fault = faults.meet(Call(PROVISION, "", json.dumps(job, default=str)))
        return CAPACITY_REASON if fault and fault.kind == "no capacity" else None

    def reclaim_after(job: dict[str, Any]) -> float | None:
        fault = faults.meet(Call(RUN_JOB, "", json.dumps(job, default=str)))
        return fault.seconds if fault and fault.kind == "reclaimed" else None

    engine.disturbances.refuse_instance = refuse_instance
    engine.disturbances.reclaim_after = reclaim_after


def _step_functions(faults: Faults) -> None:
    invoke_stock = sfn._invoke_resource

    def invoke(resource: str, input_data: Any) -> Any:
        service, _, operation = resource.removeprefix("arn:aws:states:::").partition(":")
        of_lambda = service == "lambda"
        operation = operation.partition(".")[0]
        action = "lambda:InvokeFunction" if of_lambda else f"{service}:{operation[:1].upper()}{operation[1:]}"
        fault = faults.meet(Call(action, STATE_MACHINE, json.dumps(input_data)))
        if fault and fault.kind == "late":
            time.sleep(fault.seconds)
        elif fault and fault.kind in _TASK_ERRORS:
            if fault.kind == "answer lost":
                invoke_stock(resource.removesuffix(".sync"), input_data)  # of the request, not of the job's end
            lambda_error, error = _TASK_ERRORS[fault.kind]
            name = lambda_error if of_lambda else f"{'SageMaker' if service == 'sagemaker' else service}.{error}"
            raise sfn._ExecutionError(name, f"A fault of this local cloud: {fault.kind}.")
        return invoke_stock(resource, input_data)

    sfn._invoke_resource = invoke


def _call(scope: Message, headers: dict[str, str], body: bytes, caller: str) -> Call:
    method, path = scope["method"], scope["path"]
    query = parse_qs(scope.get("query_string", b"").decode(), keep_blank_values=True)
    service = router.detect_service(method, path, headers, query)
    known = iam_actions.extract_iam_action(service, method, path, headers, body, query)
    action = known or f"{_IAM_NAMES.get(service, service)}:{_operation(path, headers)}"
    text = " ".join([path, str(query), headers.get("x-amz-copy-source", ""), body.decode("latin-1")])
    return Call(action, caller, text)


def _operation(path: str, headers: dict[str, str]) -> str:
    """Where MiniStack has no name for it: SageMaker's, and those of services that speak CBOR."""
    if path.endswith("/async-invocations"):
        return "InvokeEndpointAsync"
    return headers.get("x-amz-target", "").rpartition(".")[2] or path.rpartition("/operation/")[2]


def _refusal(fault: Fault, headers: dict[str, str], action: str) -> tuple[int, str, bytes]:
    """In the words of the service's protocol."""
    status, code = (_S3_REFUSALS if action.startswith("s3:") else _REFUSALS)[fault.kind]
    if "cbor" in headers.get("smithy-protocol", ""):
        name = bytes([0x60 + len(code)]) + code.encode()
        return status, "application/cbor", b"\xa1\x66__type" + name  # {"__type": code}
    if "x-amz-target" in headers or not action.startswith(("s3:", "sns:")):
        return status, "application/x-amz-json-1.1", json.dumps({"__type": code, "message": fault.kind}).encode()
    error = f"<Code>{code}</Code><Message>{fault.kind}</Message>"
    of_sns = f"<ErrorResponse><Error>{error}</Error></ErrorResponse>"
    return status, "text/xml", (f"<Error>{error}</Error>" if action.startswith("s3:") else of_sns).encode()


async def _whole(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body", False):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Hands out the body that has been read, then what comes after it."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_message


async def _to_nobody(message: Message) -> None:
    """The answer of a call whose caller does not get it."""


async def _reply(send: Send, status: int, content_type: str, body: bytes) -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"smithy-protocol", b"rpc-v2-cbor"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
