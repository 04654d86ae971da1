"""Ends a generation: the endpoint's notice becomes pictures in the bucket and a row that says succeeded or failed."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from contracts.environment import StoreEnvironment
from contracts.errors import GenerationFailed
from contracts.generation import InferenceAnswer
from contracts.metrics import GENERATIONS_FAILED, PICTURES_MADE, SECONDS_QUEUED
from contracts.storage import INFERENCE_FAILURE, INFERENCE_OUTPUT, generation_prefix, image_key
from lambdas.adapters.configuration import environment
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.observability import logger, metrics, tracer
from lambdas.adapters.table import Generations
from lambdas.domain.generations import GenerationRow, Notice, failure, media_type, timings

processor = BatchProcessor(event_type=EventType.SQS)


def end(record: SQSRecord) -> None:
    env = environment(StoreEnvironment)
    bucket, generations = DataBucket(env.data_bucket), Generations(env.table_name)
    notice = Notice.model_validate_json(record.body)
    logger.append_keys(correlation_id=notice.inferenceId)
    output = _own(bucket, notice.responseParameters.outputLocation, INFERENCE_OUTPUT)
    explanation = _own(bucket, notice.responseParameters.failureLocation, INFERENCE_FAILURE)
    row = generations.get(notice.inferenceId)
    if row is not None and row.status != "cancelled":
        _end(bucket, generations, row, notice, output, explanation)
    if generations.is_unwanted(notice.inferenceId):  # for long, or just now
        for prefix in (generation_prefix(notice.inferenceId), output, explanation):
            if prefix:
                bucket.erase(prefix)
    elif row is None:
        logger.info("not one of the API's generations: asked for at the endpoint itself")


def _end(
    bucket: DataBucket,
    generations: Generations,
    row: GenerationRow,
    notice: Notice,
    output: str | None,
    explanation: str | None,
) -> None:
    finished_at = notice.eventTime or datetime.now(UTC)
    generations.answered(row.id, [key for key in (output, explanation) if key])
    if row.status != "queued":  # told again, or too late: the first ending counts
        return
    answer = bucket.read(output) if output else None
    if notice.invocationStatus == "Completed" and answer is not None:
        _succeed(bucket, generations, row, notice, InferenceAnswer.model_validate_json(answer), finished_at)
        return
    told = (bucket.read(explanation) if explanation else None) or b""
    report = failure([told.decode(errors="replace"), notice.failureReason or ""])
    if generations.fail(row, finished_at, report):
        logger.warning("generation failed", extra={"report": report.model_dump()})
        metrics.add_metric(name=GENERATIONS_FAILED, unit="Count", value=1)


def _succeed(
    bucket: DataBucket,
    generations: Generations,
    row: GenerationRow,
    notice: Notice,
    answer: InferenceAnswer,
    finished_at: datetime,
) -> None:
    if not answer.generated_images:
        generations.fail(row, finished_at, GenerationFailed("The endpoint made no picture.").report)
        return
    row = row.as_drawn(answer.subjects)
    form = row.request.format
    keys = [image_key(row.id, index, form) for index in range(len(answer.generated_images))]
    for key, image, seed in zip(keys, answer.generated_images, answer.seeds, strict=True):
        bucket.write(key, base64.b64decode(image, validate=True), media_type(form), row.metadata(seed))
    spent = timings(notice.total_ms, answer.timings.load_ms, answer.timings.compute_ms)
    if generations.succeed(row, finished_at, keys, answer.seeds, spent):
        metrics.add_metric(name=PICTURES_MADE, unit="Count", value=len(keys))
        metrics.add_metric(name=SECONDS_QUEUED, unit="Seconds", value=(spent.queued_ms or 0) / 1000)


def _own(bucket: DataBucket, uri: str | None, prefix: str) -> str | None:
    """The key of an answer of our own endpoints: nothing else is read or deleted, wherever the notice points."""
    key = bucket.key_of(uri) if uri else None
    return key if key and key.startswith(f"{prefix}/") else None


@logger.inject_lambda_context(clear_state=True)
@tracer.capture_lambda_handler
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> Any:
    return process_partial_response(event=event, record_handler=end, processor=processor, context=context)
