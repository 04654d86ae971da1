"""Takes a dataset once nothing has arrived for a quiet period.

Every "Object Created" event waits out the quiet period in the intake queue (the queue's delay). When it gets here,
either something newer has arrived meanwhile, whose own event follows, or the dataset is at rest: its keys and ETags
are frozen into a manifest whose hash names the execution. No timers; a thousand deliveries train once.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.parser import parse
from aws_lambda_powertools.utilities.parser.models import S3EventNotificationEventBridgeModel
from aws_lambda_powertools.utilities.typing import LambdaContext

from contracts.environment import IntakeEnvironment
from contracts.errors import InvalidSubjectName, SubjectNotReady
from contracts.metrics import DATASETS_TAKEN
from contracts.pipeline import DatasetTaken, SubjectEvent, TakenFile, TakenManifest
from contracts.storage import check_subject, dataset_prefix, parse_dataset_key, run_id, taken_manifest_key
from lambdas.adapters import events
from lambdas.adapters.configuration import environment
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.observability import logger, metrics, tracer
from lambdas.adapters.table import Deletions, Subjects
from lambdas.domain.datasets import dataset_id, is_settled_by, is_superseded

processor = BatchProcessor(event_type=EventType.SQS)


def take(record: SQSRecord) -> None:
    event = parse(event=record.json_body, model=S3EventNotificationEventBridgeModel)
    key = event.detail.object.key
    dropped = parse_dataset_key(key)
    if dropped is None:
        if not key.endswith("/"):  # the mark of a folder
            logger.warning("a file in no subject's folder", extra={"key": key, "cure": InvalidSubjectName.default_cure})
        return
    env = environment(IntakeEnvironment)
    subjects = Subjects(env.table_name)
    try:
        check_subject(dropped.subject)
    except InvalidSubjectName as error:
        _refuse(subjects, env.subject_topic_arn, dropped.subject, error)
        return
    bucket = DataBucket(env.data_bucket)
    prefix = dataset_prefix(dropped.subject)
    found = list(bucket.list(prefix))
    if not found:
        return
    newest_upload = max(item.modified for item in found)
    if is_superseded(event.time, newest_upload):
        return
    deletions = Deletions(env.table_name)
    if deletions.is_requested(dropped.subject):  # told again later: what is left then belongs to a new subject
        raise SubjectNotReady(f"The subject {dropped.subject!r} is being deleted.")
    deleted = deletions.latest(dropped.subject)
    files = [TakenFile(path=item.key.removeprefix(prefix), etag=item.etag, size=item.size) for item in found]
    taken = _name(
        subjects, env.data_bucket, dropped.subject, files, newest_upload, deleted.finished_at if deleted else None
    ).model_copy(update={"owner": event.detail.requester})
    manifest = TakenManifest(subject=taken.subject, dataset_id=taken.dataset_id, files=files)
    bucket.write(taken_manifest_key(taken.subject, taken.dataset_id), manifest.model_dump_json().encode())
    first_delivery = subjects.take(taken, newest_upload)
    if first_delivery or subjects.is_running(taken):  # again after a crash in between; never what has ended: after 90
        events.start_execution(env.state_machine_arn, taken)  # days its execution's name is free
    if first_delivery:
        logger.info("dataset taken", extra={"correlation_id": taken.run_id, "files": len(files)})
        metrics.add_metric(name=DATASETS_TAKEN, unit="Count", value=1)


def _name(
    subjects: Subjects,
    bucket: str,
    subject: str,
    files: list[TakenFile],
    newest_upload: datetime,
    deleted_at: datetime | None,
) -> DatasetTaken:
    """The run that these contents have, or the next that they can have."""
    again = 0
    while True:
        dataset = dataset_id(bucket, subject, files, again, deleted_at)
        taken = DatasetTaken(subject=subject, dataset_id=dataset, run_id=run_id(subject, dataset))
        run = subjects.run(subject, taken.run_id)
        if run is None:
            return taken
        # Read after the run: one that another delivery has just recorded is the newest already.
        if is_settled_by(run, taken.run_id == subjects.newest_run_id(subject), newest_upload):
            return taken
        again += 1


def _refuse(subjects: Subjects, topic_arn: str, subject: str, error: InvalidSubjectName) -> None:
    if subjects.refuse(subject, error.report):
        failed = SubjectEvent(
            event="subject.failed", subject=subject, run_id="", error=error.report, link="/v1/subjects"
        )
        events.publish(topic_arn, failed)


@logger.inject_lambda_context(clear_state=True)
@tracer.capture_lambda_handler
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> Any:
    return process_partial_response(event=event, record_handler=take, processor=processor, context=context)
