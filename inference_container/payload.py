"""From the headers and the body of /invocations to what is asked. Pure.

JumpStart's contract (its notebook `sm-jumpstart_stable_diffusion_text_to_image`) and what its clients really send: no
content type at all, `application/json;jpeg` as a content type, the object inside {"predictions": [...]}.
"""

from __future__ import annotations

import json
from typing import Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.errors import InvalidRequest
from contracts.generation import InferencePayload, PictureFormat
from contracts.training import describe

PictureForm = Literal["rgb"] | PictureFormat

_JSON = "application/json"
_TEXT = ("application/x-text", "text/plain")
_UNTOLD = ("", "*/*", "application/octet-stream")


class UnsupportedContentType(InvalidRequest):
    status = 415
    default_cure = "Send application/json or application/x-text."


class NotAcceptable(InvalidRequest):
    status = 406
    default_cure = "Accept application/json (RGB arrays), application/json;jpeg, ;png or ;webp (base64)."


class Invocation(BaseModel):
    """One request, understood."""

    model_config = ConfigDict(frozen=True)

    payload: InferencePayload
    plain_text: bool  # asked as text: JumpStart answers such requests with one picture under a singular key
    form: PictureForm


def parse_invocation(content_type: str | None, accept: str | None, body: bytes) -> Invocation:
    """Raises InvalidRequest (400, 406 or 415) that names the field or header."""
    form = _accepted_form(accept or "")
    text = _decode(body)
    media_type = _media_type(content_type or "")
    if media_type not in (_JSON, *_TEXT, *_UNTOLD):
        raise UnsupportedContentType(f"Content-Type: {media_type[:80]!r} is not understood.")
    if media_type == _JSON or (media_type in _UNTOLD and text.lstrip().startswith("{")):
        return Invocation(payload=_validate(_unwrap(_parse_json(text))), plain_text=False, form=form)
    document = _document_or_text(text)
    if isinstance(document, dict):
        return Invocation(payload=_validate(_unwrap(document)), plain_text=False, form=form)
    return Invocation(payload=_validate({"prompt": document}), plain_text=True, form=form)


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()


def _accepted_form(accept: str) -> PictureForm:
    """The first of the listed media types that can be served; qualities are not weighed."""
    for choice in accept.split(","):
        media_type, *parameters = (part.strip().lower() for part in choice.split(";"))
        for form in get_args(PictureFormat):
            if media_type == _JSON and form in parameters:
                return cast(PictureFormat, form)
        if media_type in (_JSON, "application/*", "*/*", ""):
            return "rgb"
    raise NotAcceptable(f"Accept: {accept[:80]!r} cannot be served.")


def _decode(body: bytes) -> str:
    if not body.strip():
        raise InvalidRequest("body: is empty.", 'Send {"prompt": "..."} as application/json.')
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"body: is not UTF-8 (byte {error.start}).") from error


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"body: is not JSON ({error}).") from error
    except RecursionError as error:
        raise InvalidRequest("body: is nested too deeply.") from error


def _unwrap(document: Any) -> Any:
    if not isinstance(document, dict):
        raise InvalidRequest(f"body: must be a JSON object, not {type(document).__name__}.")
    if document.keys() != {"predictions"}:
        return document
    predictions = document["predictions"]
    if not (isinstance(predictions, list) and len(predictions) == 1 and isinstance(predictions[0], dict)):
        raise InvalidRequest("predictions: must be a list of exactly one object.")
    return predictions[0]


def _document_or_text(text: str) -> dict[str, Any] | str:
    """Some clients send the JSON object as text, older ones JSON-encode the prompt; all else is the prompt itself."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    is_document = isinstance(value, dict) and ("prompt" in value or "predictions" in value)
    return value if is_document or isinstance(value, str) else text


def _validate(document: dict[str, Any]) -> InferencePayload:
    try:
        return InferencePayload.model_validate(document)
    except ValidationError as error:
        raise InvalidRequest(f"{describe(error)}.") from error
