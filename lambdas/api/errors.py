"""The one place where an exception becomes an HTTP answer."""

from __future__ import annotations

import json

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from pydantic import ValidationError

from contracts.errors import CallerError, DreamdropError, ErrorReport, InternalError, InvalidRequest, Unavailable
from contracts.generation import GenerationRequest
from contracts.metrics import UNEXPECTED_ERRORS
from contracts.training import describe
from lambdas.adapters.clients import is_transient
from lambdas.adapters.observability import logger, metrics


def install(app: APIGatewayHttpResolver) -> None:
    app.exception_handler(DreamdropError)(_own)
    app.exception_handler(ValidationError)(_invalid)
    app.exception_handler(Exception)(_unexpected)
    app.not_found(_no_route)


def _own(error: DreamdropError) -> Response[str]:
    if not isinstance(error, CallerError):
        logger.error(str(error), extra={"code": error.code})
    return _answer(error.status, error.report)


def _invalid(error: ValidationError) -> Response[str]:
    return _own(InvalidRequest(f"{describe(error, GenerationRequest.model_fields)}."))


def _no_route(_error: NotFoundError) -> Response[str]:
    report = ErrorReport(code="unknown_route", cause="There is no such route.", cure="See GET /v1/openapi.json.")
    return _answer(404, report)


def _unexpected(error: Exception) -> Response[str]:
    if is_transient(error):
        return _own(Unavailable(f"A service of AWS does not answer as it should ({type(error).__name__})."))
    logger.exception("unexpected", exc_info=error)
    metrics.add_metric(name=UNEXPECTED_ERRORS, unit="Count", value=1)
    return _answer(500, InternalError("The request failed unexpectedly.").report)


def _answer(status: int, report: ErrorReport) -> Response[str]:
    body = {"error": report.model_dump(), "correlation_id": logger.get_correlation_id()}
    return Response(status_code=status, content_type="application/json", body=json.dumps(body))
