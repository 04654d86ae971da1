"""Deletes a subject: what was dropped, what was made of it, the pictures that it is in, and their rows. A record stays.

Safe to repeat from the start at any point. The subject's own row goes last, so whatever is interrupted is found again.
"""

from __future__ import annotations

import time
from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from contracts.environment import DeletionEnvironment
from contracts.errors import Interrupted
from contracts.metrics import SUBJECTS_DELETED
from contracts.pipeline import DELETION_LEASE_SECONDS, DatasetTaken, DeletionRequested
from contracts.storage import (
    MANIFEST,
    PROMOTED,
    class_image_set_prefix,
    generation_prefix,
    is_subject,
    models_prefix,
    subject_prefixes,
    training_job_name,
)
from lambdas.adapters import events, leftovers
from lambdas.adapters.configuration import environment
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.observability import logger, metrics, tracer
from lambdas.adapters.table import Deletions, Generations, Subjects
from lambdas.domain.endpoints import own_endpoint_name

PAUSE_SECONDS = 5.0
BREATHER_SECONDS = 30  # before the next turn of what takes longer than one
RETRY_SECONDS = 60  # after the first failure; twice as long after the second, and so on
NEEDED_MS = 30_000  # at the end of the function's time: a round that is begun is finished

processor = BatchProcessor(event_type=EventType.SQS)


class _OutOfTime(Exception):
    """Nothing is wrong: what is to be deleted is not done changing, or is much."""


def delete(record: SQSRecord, lambda_context: LambdaContext) -> None:
    env = environment(DeletionEnvironment)
    name = DeletionRequested.model_validate_json(record.body).subject
    logger.append_keys(subject=name)
    deletions = Deletions(env.table_name)
    if not deletions.begin(name, DELETION_LEASE_SECONDS):
        logger.info("there is nothing to delete, or it is being done")
        return
    try:
        _Deletion(env, deletions, name, lambda_context).run()
    except _OutOfTime:
        deletions.pause(name)
        logger.info("this takes longer than one turn")
        events.ask_for_deletion(env.deletion_queue_url, DeletionRequested(subject=name), BREATHER_SECONDS)
    except Exception:
        deletions.pause(name)
        tries = int(record.attributes.approximate_receive_count or 1)
        events.come_back(env.deletion_queue_url, record.receipt_handle, RETRY_SECONDS * tries)
        raise


class _Deletion:
    def __init__(self, env: DeletionEnvironment, deletions: Deletions, name: str, context: LambdaContext) -> None:
        self._context = context
        self._env = env
        self._rows = deletions
        self._name = name
        self._bucket = DataBucket(env.data_bucket)
        self._generations = Generations(env.table_name)

    def run(self) -> None:
        self._erase(models_prefix(self._name), (f"/{PROMOTED}", f"/{MANIFEST}"))  # endpoints stop drawing it
        self._erase_until_nothing_comes(self._stop_runs())
        for generation in self._rows.generations(self._name):
            self._forget_generation(generation)
            self._require_time()  # only now: a turn, however short, gets on
        for image_set in self._rows.class_image_sets(self._name):
            self._release_class_images(image_set)
        for run in self._rows.runs(self._name):
            self._rows.remove_run(self._name, run.id)
        done = self._rows.finish(self._name)
        logger.info("subject deleted", extra={"objects": done.objects})
        metrics.add_metric(name=SUBJECTS_DELETED, unit="Count", value=1)

    def _require_time(self) -> None:
        """Raises _OutOfTime."""
        if self._context.get_remaining_time_in_millis() < NEEDED_MS:
            raise _OutOfTime

    def _stop_runs(self) -> list[str]:
        """Every run's: one that ended long ago is stopped in vain. Returns the names of the training jobs."""
        subjects, jobs = Subjects(self._env.table_name), []
        for run in self._rows.runs(self._name):
            taken = DatasetTaken(subject=self._name, dataset_id=run.dataset_id, run_id=run.id)
            subjects.fail(taken, Interrupted("The subject was deleted.").report)  # before: nobody is told of a failure
            events.stop_execution(self._env.state_machine_arn, run.id, "The subject is being deleted.")
            if run.version:
                jobs.append(training_job_name(self._env.resource_prefix, self._name, run.version))
        for job in jobs:
            if leftovers.is_running(job):
                leftovers.stop_job(job)
        return jobs

    def _erase_until_nothing_comes(self, jobs: list[str]) -> None:
        """A job that is stopped saves what it has, and an endpoint of its own goes once it is done changing. A function
        whose execution was stopped goes on, until it misses what it reads or is done; so the end is a round that finds
        nothing, after a pause."""
        while True:
            running = self._has_endpoint() or [job for job in jobs if leftovers.is_running(job)]
            erased = sum([self._erase(prefix) for prefix in subject_prefixes(self._name)])
            if not running and not erased:
                return
            self._require_time()
            time.sleep(PAUSE_SECONDS)

    def _has_endpoint(self) -> bool:
        """One of its own; it is removed, which takes a while. A name that was refused names no endpoint."""
        if not is_subject(self._name):
            return False
        try:
            return leftovers.remove_with_models(own_endpoint_name(self._env.resource_prefix, self._name))
        except leftovers.StillChanging:
            return True

    def _forget_generation(self, generation: str) -> None:
        """Its row first: pictures that come from now on are not kept."""
        answers = self._generations.forget(generation)
        for prefix in (generation_prefix(generation), *answers):
            self._erase(prefix)
        self._rows.remove_generation(self._name, generation)

    def _release_class_images(self, image_set: str) -> None:
        """Subjects of one class share them: they do not show the subject, but were drawn for it."""
        if not self._rows.is_used_by_others(image_set, self._name):
            self._erase(class_image_set_prefix(image_set))
        self._rows.remove_class_image_set(self._name, image_set)

    def _erase(self, prefix: str, endings: tuple[str, ...] = ("",)) -> int:
        erased = self._bucket.erase(prefix, endings)
        if erased:
            self._rows.count(self._name, erased)
        return erased


@logger.inject_lambda_context(clear_state=True)
@tracer.capture_lambda_handler
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> Any:
    return process_partial_response(event=event, record_handler=delete, processor=processor, context=context)
