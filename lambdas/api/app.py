"""The HTTP API: ask for pictures, upload what they start from, fetch them, see the subjects."""

from __future__ import annotations

import re
import secrets
import uuid
from base64 import b64decode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.logging import correlation_paths
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.exceptions import BotoCoreError, ClientError

from contracts.environment import ApiEnvironment
from contracts.errors import (
    EndpointBusy,
    GenerationEnded,
    GenerationFailed,
    IdempotencyConflict,
    InvalidRequest,
    Unauthenticated,
    UnknownGeneration,
    UnknownSubject,
)
from contracts.generation import MAX_PAYLOAD_BYTES, Generation, GenerationRequest, Picture, PictureSource
from contracts.metrics import GENERATIONS_ACCEPTED
from contracts.pipeline import DeletionRequested, EndpointNotice, Subject, SubjectPage
from contracts.policy import check_prompts
from contracts.progress import TrainingProgress
from contracts.reading import read_json
from contracts.storage import GENERATION_PATTERN, progress_key, source_prefix
from lambdas.adapters import events, hosting
from lambdas.adapters.clients import is_transient
from lambdas.adapters.configuration import environment
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.lines import Lines
from lambdas.adapters.observability import logger, metrics, tracer
from lambdas.adapters.table import Deletions, Generations, Subjects
from lambdas.api import errors
from lambdas.api.settling import settle
from lambdas.domain import openapi
from lambdas.domain.generations import GenerationRow, answer_type, asks_the_same, id_of, owner_of

PAGE = Path(__file__).resolve().parents[2] / "dreamdrop" / "web" / "index.html"
MAX_IDEMPOTENCY_KEY = 128
NOT_SERVING = ("Creating", "Deleting", "Failed")
MAX_KEY_BYTES = 1024  # of S3 and of a sort key: no subject's name is longer

app = APIGatewayHttpResolver()
errors.install(app)


@app.post("/v1/generations")
def draw() -> Response[str]:
    env = environment(ApiEnvironment)
    owner = _owner()
    asked = _parse_body()
    check_prompts(asked.prompts, env.blocked_words)
    endpoint, version, request = settle(asked, owner, Subjects(env.table_name), DataBucket(env.data_bucket))
    if request.seed is None:  # picked here, so that the picture can be asked for again
        request = request.model_copy(update={"seed": secrets.randbelow(2**32)})
    row = GenerationRow(
        id=_new_id(owner),
        owner=owner,
        status="queued",
        subject=request.subject,
        version=version,
        endpoint_name=endpoint,
        request=request,
        created_at=datetime.now(UTC),
    )
    if len(row.body().encode()) > MAX_PAYLOAD_BYTES:
        raise InvalidRequest("prompt, negative_prompt: together they are too long.")
    generations = Generations(env.table_name)
    if not generations.create(row):
        row = _replayed(generations, row.id, asked)
    if not row.submitted and row.status == "queued":
        row = _submit(generations, row, endpoint)
    return _json(202, _view(row))


@app.post("/v1/sources")
def offer_source() -> Response[str]:
    key = source_prefix(_owner()) + uuid.uuid4().hex
    env = environment(ApiEnvironment)
    url = DataBucket(env.data_bucket).upload_link(key, env.url_lifetime_seconds)
    return _json(201, PictureSource(source_image=key, upload_url=url))


@app.get("/v1/generations/<generation_id>")
def fetch(generation_id: str) -> Response[str]:
    lines = Lines(environment(ApiEnvironment).table_name)
    now = datetime.now(UTC)
    row = _generation(lines, generation_id).as_of(now)
    position = lines.position(row, now) if row.status == "queued" else None
    return _json(200, _view(row).model_copy(update={"queue_position": position}))


@app.delete("/v1/generations/<generation_id>")
def cancel(generation_id: str) -> Response[str]:
    """Whether it is drawn nevertheless is the endpoint's affair: nobody will have the pictures."""
    generations = Generations(environment(ApiEnvironment).table_name)
    now = datetime.now(UTC)
    row = _generation(generations, generation_id)
    generations.cancel(row, now)
    ended = _generation(generations, generation_id)
    if ended.status != "cancelled":
        raise GenerationEnded(f"The generation {generation_id} is {ended.status}.")
    return _json(200, _view(ended))


@app.get("/v1/subjects")
def subjects() -> Response[str]:
    _owner()
    after = app.current_event.query_string_parameters.get("after", "")
    if len(after.encode()) > MAX_KEY_BYTES:
        raise InvalidRequest("after: is longer than any subject's name.")
    return _json(200, Subjects(environment(ApiEnvironment).table_name).page(after))


@app.get("/v1/subjects/<name>")
def subject(name: str) -> Response[str]:
    _owner()
    env = environment(ApiEnvironment)
    return _json(200, _with_progress(_subject(env, name), DataBucket(env.data_bucket)))


@app.delete("/v1/subjects/<name>")
def delete(name: str) -> Response[str]:
    """A repetition is put in line too: it goes on at once with what was interrupted."""
    owner = _owner()
    env = environment(ApiEnvironment)
    _subject(env, name)
    Deletions(env.table_name).request(name, owner)
    events.ask_for_deletion(env.deletion_queue_url, DeletionRequested(subject=name))
    return _json(202, _subject(env, name))


@app.get("/v1/openapi.json")
def schema() -> dict[str, Any]:
    return openapi.document(environment(ApiEnvironment).oidc_issuer)


@app.get("/")
def page() -> Response[str]:
    return Response(status_code=200, content_type="text/html; charset=utf-8", body=PAGE.read_text(encoding="utf-8"))


def _subject(env: ApiEnvironment, name: str) -> Subject:
    """With its newest run. Raises UnknownSubject."""
    is_key = len(name.encode()) <= MAX_KEY_BYTES
    found = Subjects(env.table_name).one(name) if is_key else None
    if found is None:
        deleted = Deletions(env.table_name).latest(name) if is_key else None
        when = f" any more: it was deleted at {deleted.finished_at.isoformat()}" if deleted else ""
        raise UnknownSubject(f"There is no subject {name[:64]!r}{when}.")
    return found


def _owner() -> str:
    owner = owner_of(app.current_event.raw_event.get("requestContext", {}))
    if owner is None:
        raise Unauthenticated("The request names no authenticated caller.")
    return owner


def _generation(generations: Generations, generation_id: str) -> GenerationRow:
    """One of the caller's own: another owner's id is as good as none. Raises UnknownGeneration."""
    owner = _owner()
    row = generations.get(generation_id) if re.fullmatch(GENERATION_PATTERN, generation_id) else None
    if row is None or row.owner != owner:
        raise UnknownGeneration(f"There is no generation {generation_id[:64]!r} of yours.")
    return row


def _parse_body() -> GenerationRequest:
    event = app.current_event
    text = event.body or ""
    if "\ufffd" in text:  # what a gateway puts where it found none: the local one does, API Gateway was not asked
        raise InvalidRequest("The body is not UTF-8 text.")
    try:
        body = read_json(b64decode(text) if event.is_base64_encoded else text)
    except ValueError as error:
        raise InvalidRequest(f"The body is not JSON ({error}).") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The body is not a JSON object.")
    return GenerationRequest.model_validate(body)


def _idempotency_key() -> str | None:
    return app.current_event.headers.get("idempotency-key")


def _new_id(owner: str) -> str:
    key = _idempotency_key()
    if key is None:
        return uuid.uuid4().hex
    if not 1 <= len(key) <= MAX_IDEMPOTENCY_KEY:
        raise InvalidRequest(f"Idempotency-Key: 1 to {MAX_IDEMPOTENCY_KEY} characters, not {len(key)}.")
    return id_of(owner, key)


def _replayed(generations: Generations, generation_id: str, asked: GenerationRequest) -> GenerationRow:
    """The first row of this id; the repetition must ask for the same. Raises IdempotencyConflict."""
    first = generations.get(generation_id)
    if first is None or not asks_the_same(asked, first.request):
        raise IdempotencyConflict("This Idempotency-Key was used for another request.")
    return first


def _submit(generations: Generations, row: GenerationRow, newest: str) -> GenerationRow:
    """To the endpoint in whose line it waits; the subject may be drawn by a newer one by now."""
    endpoint = row.endpoint_name or newest
    try:
        hosting.submit(endpoint, row.id, row.body(), answer_type(row.request.format))
    except (ClientError, BotoCoreError) as error:
        logger.warning("the endpoint did not accept the request", exc_info=True)
        if is_transient(error):
            busy = EndpointBusy("The endpoint does not accept requests at the moment.")
            if _idempotency_key() is None:  # else the row stays queued: a retry with the same key submits it
                generations.fail(row, datetime.now(UTC), busy.report)
            raise busy from error
        if endpoint == newest and _is_missing(endpoint):  # it is made again, and then gets what waits
            notice = EndpointNotice(endpoint_name=endpoint, subject=row.subject)
            events.look_at_endpoint(environment(ApiEnvironment).hosting_queue_url, notice)
            return row
        failed = GenerationFailed("The endpoint did not accept the request.")
        generations.fail(row, datetime.now(UTC), failed.report)
        raise failed from error
    generations.mark_submitted(row.id)
    metrics.add_metric(name=GENERATIONS_ACCEPTED, unit="Count", value=row.request.images)
    try:
        hosting.wake(endpoint)
    except (ClientError, BotoCoreError):  # the alarm wakes it a minute later
        logger.warning("waking failed", exc_info=True)
    return row.model_copy(update={"submitted": True})


def _is_missing(endpoint: str) -> bool:
    """As after a removal of the service stack: it does not serve yet, or not any more."""
    found = hosting.describe(endpoint)
    return found is None or found["EndpointStatus"] in NOT_SERVING


def _view(row: GenerationRow) -> Generation:
    env = environment(ApiEnvironment)
    bucket = DataBucket(env.data_bucket)
    prompts = [prompt for prompt in row.request.prompts for _ in range(row.request.num_images_per_prompt)]
    return Generation(
        id=row.id,
        status=row.status,
        subject=row.subject,
        version=row.version,
        request=row.request,
        created_at=row.created_at,
        finished_at=row.finished_at,
        images=[
            Picture(url=bucket.link(key, env.url_lifetime_seconds), prompt=prompt, seed=seed)
            for key, prompt, seed in zip(row.images, prompts, row.seeds, strict=False)
        ],
        timings=row.timings,
        error=row.error,
    )


def _with_progress(found: Subject, bucket: DataBucket) -> Subject:
    """While it trains, the container's progress file is the news."""
    run = found.run
    if run is None or run.stage != "training":
        return found
    content = bucket.read(progress_key(found.subject, run.dataset_id))
    if content is None:
        return found
    progress = TrainingProgress.model_validate_json(content)
    return found.model_copy(update={"run": run.model_copy(update={"progress": progress})})


def _json(status: int, model: Generation | PictureSource | Subject | SubjectPage) -> Response[str]:
    return Response(status_code=status, content_type="application/json", body=model.model_dump_json())


@logger.inject_lambda_context(correlation_id_path=correlation_paths.API_GATEWAY_HTTP, clear_state=True)
@tracer.capture_lambda_handler
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return app.resolve(event, context)
