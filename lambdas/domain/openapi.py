"""The OpenAPI document, generated from the models that validate."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from contracts.errors import ERRORS_BY_CODE, CallerError, ErrorReport
from contracts.generation import (
    KEEP_GENERATIONS_DAYS,
    KEEP_SOURCES_DAYS,
    MAX_SOURCE_BYTES,
    Generation,
    GenerationRequest,
    PictureSource,
)
from contracts.pipeline import SUBJECTS_A_PAGE, Subject, SubjectPage

VERSION = "1"
_REFERENCE = "#/components/schemas/{model}"


def document(oidc_issuer: str = "") -> dict[str, Any]:
    """OpenAPI 3.1, served as /v1/openapi.json: the API's address is relative to that. Callers sign, or show a token."""
    _, schema = models_json_schema(
        [(GenerationRequest, "validation"), (Generation, "serialization"), (SubjectPage, "serialization"),
         (PictureSource, "serialization"), (ErrorReport, "serialization")],
        ref_template=_REFERENCE,
    )  # fmt: skip
    scheme, described = _security_scheme(oidc_issuer)
    error = {"type": "object", "properties": {"error": _ref(ErrorReport), "correlation_id": {"type": "string"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Dreamdrop", "version": VERSION, "description": "Draw your subjects anywhere."},
        "servers": [{"url": ".."}],
        "security": [{scheme: []}],
        "paths": {
            "/v1/generations": {"post": _draw()},
            "/v1/generations/{id}": {"get": _get("One generation", _ref(Generation), "id"), "delete": _cancel()},
            "/v1/sources": {"post": _offer_source()},
            "/v1/subjects": {"get": _list_subjects()},
            "/v1/subjects/{subject}": {
                "get": _get("One subject and its newest run", _ref(Subject), "subject"),
                "delete": _delete(),
            },
        },
        "components": {
            "schemas": {**schema["$defs"], "Error": error},
            "securitySchemes": {scheme: described},
        },
    }


def _security_scheme(oidc_issuer: str) -> tuple[str, dict[str, str]]:
    """(name, what OpenAPI says of it). The page asks for credentials by the name."""
    if oidc_issuer:
        configuration = f"{oidc_issuer.rstrip('/')}/.well-known/openid-configuration"
        return "oidc", {"type": "openIdConnect", "openIdConnectUrl": configuration}
    return "sigv4", {"type": "apiKey", "in": "header", "name": "Authorization", "description": "AWS SigV4"}


def _ref(model: type) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def _answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _errors() -> dict[str, Any]:
    codes: dict[int, list[str]] = {}
    for code, error in ERRORS_BY_CODE.items():
        if issubclass(error, CallerError):
            codes.setdefault(error.status, []).append(code)
    error_schema = {"$ref": "#/components/schemas/Error"}
    return {
        **{str(status): _answer(", ".join(names), error_schema) for status, names in sorted(codes.items())},
        "500": _answer("internal_error: ours; quote the correlation id", error_schema),
    }


def _draw() -> dict[str, Any]:
    return {
        "summary": "Ask for pictures",
        "description": f"Answers at once; the pictures follow. Kept {KEEP_GENERATIONS_DAYS} days.",
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "maxLength": 128},
                "description": "A retry with the same key and body returns the same generation.",
            }
        ],
        "requestBody": {"required": True, **_answer("What to draw", _ref(GenerationRequest))},
        "responses": {"202": _answer("Accepted", _ref(Generation)), **_errors()},
    }


def _offer_source() -> dict[str, Any]:
    megabytes = MAX_SOURCE_BYTES // 2**20
    return {
        "summary": "Ask where to upload a picture that others start from",
        "description": f"For the field source_image. At most {megabytes} MiB; kept {KEEP_SOURCES_DAYS} days.",
        "responses": {"201": _answer("Where to upload", _ref(PictureSource)), **_errors()},
    }


def _cancel() -> dict[str, Any]:
    return {
        "summary": "Cancel a generation that is queued",
        "description": "Pictures that are drawn nevertheless are thrown away. Safe to repeat.",
        "parameters": [_path_parameter("id")],
        "responses": {"200": _answer("It is cancelled", _ref(Generation)), **_errors()},
    }


def _delete() -> dict[str, Any]:
    return {
        "summary": "Delete a subject, for good",
        "description": "Photos, models, pictures and their rows: once GET answers 404, they are gone. A record that it "
        "was deleted stays. Safe to repeat.",
        "parameters": [_path_parameter("subject")],
        "responses": {"202": _answer("It is being deleted", _ref(Subject)), **_errors()},
    }


def _get(summary: str, schema: dict[str, Any], parameter: str | None = None) -> dict[str, Any]:
    return {
        "summary": summary,
        **({"parameters": [_path_parameter(parameter)]} if parameter else {}),
        "responses": {"200": _answer(summary, schema), **_errors()},
    }


def _list_subjects() -> dict[str, Any]:
    after = "Lists those that follow this name; left out: from the first on."
    return {
        "summary": "The subjects, by name",
        "description": f"At most {SUBJECTS_A_PAGE} at once; `next` is the `after` of the following page.",
        "parameters": [{"name": "after", "in": "query", "schema": {"type": "string"}, "description": after}],
        "responses": {"200": _answer("A page of subjects", _ref(SubjectPage)), **_errors()},
    }


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
