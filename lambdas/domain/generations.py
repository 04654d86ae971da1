"""A generation from acceptance to its end: ids, deadlines, and what an asynchronous endpoint's notice means."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.errors import ERRORS_BY_CODE, ErrorReport, GenerationExpired, GenerationFailed
from contracts.generation import (
    INVOCATION_TIMEOUT_SECONDS,
    REQUEST_TTL_SECONDS,
    GenerationRequest,
    GenerationStatus,
    GenerationTimings,
    InferencePayload,
    PictureFormat,
)

SLACK_SECONDS = 300


class GenerationRow(BaseModel):
    """What the table knows. `images` are S3 keys, one a picture."""

    model_config = ConfigDict(frozen=True)

    id: str
    owner: str
    status: GenerationStatus
    subject: str
    version: str
    endpoint_name: str | None = Field(None, description="Who is asked; rows of former deployments do not tell.")
    request: GenerationRequest
    created_at: datetime
    submitted: bool = False
    finished_at: datetime | None = None
    images: list[str] = []
    seeds: list[int] = []
    timings: GenerationTimings = GenerationTimings()
    error: ErrorReport | None = None

    def as_of(self, now: datetime) -> GenerationRow:
        """A request whose notice never came ends as expired: nothing is queued for ever."""
        if self.status != "queued" or now < deadline(self.created_at):
            return self
        error = GenerationExpired("The endpoint gave no answer in time.")
        return self.model_copy(update={"status": "expired", "error": error.report})

    def payload(self) -> InferencePayload:
        drawn = self.request.model_dump(exclude={"format"})
        return InferencePayload.model_validate({**drawn, "version": self.version})

    def body(self) -> str:
        """Without what is left open: an endpoint of before the last deployment refuses fields that it does not know."""
        return self.payload().model_dump_json(exclude_defaults=True)

    def as_drawn(self, subjects: list[str]) -> GenerationRow:
        """An endpoint of one subject draws the version that it has by then, whichever it had before its update."""
        drawn = [version for name, _, version in (one.partition("@") for one in subjects) if name == self.subject]
        return self.model_copy(update={"version": drawn[0]}) if drawn else self

    @property
    def subjects(self) -> list[str]:
        """Those that are in the pictures, each once."""
        return list(dict.fromkeys([self.subject, *(other.subject for other in self.request.mix)]))

    def metadata(self, seed: int) -> dict[str, str]:
        """Of the picture of that seed, in S3. Without the prompt: only 2 KB of ASCII have room."""
        others = [f"{other.subject}@{other.version}" for other in self.request.mix]
        scheduler = self.request.scheduler
        return {
            "generation": self.id,
            "seed": str(seed),
            "subjects": ",".join([f"{self.subject}@{self.version}", *others]),
            **({"scheduler": scheduler} if scheduler else {}),
        }


def answer_type(form: PictureFormat) -> str:
    """What the endpoint is to accept."""
    return f"application/json;{form}"


def media_type(form: PictureFormat) -> str:
    return f"image/{form}"


def asks_the_same(repeated: GenerationRequest, first: GenerationRequest) -> bool:
    """What the repetition leaves open may be what was chosen for the first: seed and versions."""
    if len(repeated.mix) != len(first.mix):
        return False
    mix = [
        other.model_copy(update={"version": other.version or known.version})
        for other, known in zip(repeated.mix, first.mix, strict=True)
    ]
    seed = first.seed if repeated.seed is None else repeated.seed
    chosen = {"seed": seed, "version": repeated.version or first.version, "mix": mix}
    return repeated.model_copy(update=chosen) == first


LONGEST_WAIT = timedelta(seconds=REQUEST_TTL_SECONDS + INVOCATION_TIMEOUT_SECONDS + SLACK_SECONDS)


def deadline(created_at: datetime) -> datetime:
    return created_at + LONGEST_WAIT


def id_of(owner: str, idempotency_key: str) -> str:
    """The same key of the same owner is the same generation: no table of keys is needed."""
    return hashlib.sha256(json.dumps([owner, idempotency_key]).encode()).hexdigest()[:32]


class _ResponseParameters(BaseModel):
    outputLocation: str | None = None  # noqa: N815
    failureLocation: str | None = None  # noqa: N815


class Notice(BaseModel):
    """Message of an asynchronous endpoint's topic. Every field but the first two may be missing.

    https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-check-predictions.html
    """

    inferenceId: str  # noqa: N815
    invocationStatus: Literal["Completed", "Failed"] | str  # noqa: N815
    receivedTime: datetime | None = None  # noqa: N815
    eventTime: datetime | None = None  # noqa: N815
    failureReason: str | None = None  # noqa: N815
    responseParameters: _ResponseParameters = Field(default_factory=_ResponseParameters)  # noqa: N815

    @property
    def total_ms(self) -> int | None:
        if self.receivedTime is None or self.eventTime is None:
            return None
        return round((self.eventTime - self.receivedTime).total_seconds() * 1000)


def timings(total_ms: int | None, load_ms: int, compute_ms: int) -> GenerationTimings:
    queued = None if total_ms is None else max(0, total_ms - load_ms - compute_ms)
    return GenerationTimings(queued_ms=queued, load_ms=load_ms, compute_ms=compute_ms)


def failure(texts: list[str]) -> ErrorReport:
    """The container's own report if one of the texts holds it; else what is known from the outside."""
    for text in texts:
        report = _embedded_report(text)
        if report:
            return report
    together = " ".join(texts)
    if re.search(r"\bexpire|RequestTTLSeconds", together, re.IGNORECASE):
        return GenerationExpired("The request waited longer than its time to live.").report
    return GenerationFailed("The endpoint could not make the picture.").report


def _embedded_report(text: str) -> ErrorReport | None:
    for start in (found.start() for found in re.finditer(r"\{", text)):
        try:
            value, _ = json.JSONDecoder().raw_decode(text[start:])
        except ValueError:
            continue
        if isinstance(value, dict) and value.get("code") in ERRORS_BY_CODE:
            return ErrorReport(code=value["code"], cause=str(value.get("cause", "")), cure=str(value.get("cure", "")))
    return None


def owner_of(request_context: dict[str, Any]) -> str | None:
    """The authenticated principal: the IAM user or role, or the subject of a JWT. Never a header, never a field."""
    authorizer = request_context.get("authorizer") or {}
    iam = authorizer.get("iam") or {}
    claims = (authorizer.get("jwt") or {}).get("claims") or {}
    if iam.get("userArn"):
        return _without_session(str(iam["userArn"]))
    if claims.get("iss") and claims.get("sub"):
        return f"{claims['iss']}#{claims['sub']}"
    return None


def _without_session(arn: str) -> str:
    """arn:aws:sts::1:assumed-role/Artist/session-7 -> .../Artist: the session changes with every login.

    Roles of IAM Identity Center are shared by people, and there the session is the person.
    """
    return arn.rsplit("/", 1)[0] if ":assumed-role/" in arn and "/AWSReservedSSO_" not in arn else arn
