"""Keeps an endpoint as it should be, whenever there is news of it: it came into service or failed (EventBridge),
somebody waits for one that is not there (the API), or nobody needs it any more (HostModel).

What to do is read from the endpoint and the table, never from the message: late and repeated messages do no harm.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from contracts.environment import HostEnvironment
from contracts.errors import ErrorReport, HostingFailed
from contracts.metrics import GENERATIONS_ACCEPTED, GENERATIONS_FAILED
from contracts.pipeline import EndpointNotice
from lambdas.adapters import events, hosting, leftovers
from lambdas.adapters.configuration import environment
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.lines import Lines
from lambdas.adapters.observability import logger, metrics, tracer
from lambdas.adapters.table import Hosted, Subjects
from lambdas.domain.endpoints import BETWEEN_TRIES, subject_of_own
from lambdas.domain.generations import answer_type
from lambdas.hosting.planning import plan_promoted
from lambdas.hosting.resting import is_awaited, let_it_rest

LOOK_AGAIN_SECONDS = 60

processor = BatchProcessor(event_type=EventType.SQS)


def keep(record: SQSRecord) -> None:
    env = environment(HostEnvironment)
    notice = EndpointNotice.model_validate_json(record.body)
    logger.append_keys(endpoint=notice.endpoint_name)
    if not _Endpoint(env, notice).settle():
        events.look_at_endpoint(env.hosting_queue_url, notice, LOOK_AGAIN_SECONDS)


class _Endpoint:
    def __init__(self, env: HostEnvironment, notice: EndpointNotice) -> None:
        self._env = env
        self._name = notice.endpoint_name
        self._subjects = Subjects(env.table_name)
        self._line = Lines(env.table_name)
        self._wanted = self._wanted_by(notice.subject)

    def settle(self) -> bool:
        """The next thing that it needs. False if it is to be looked at again, without further news."""
        found = hosting.describe(self._name)
        if found is None:
            self._make()
            return True
        if not hosting.is_run_by(found, self._env.inference_role_arn):
            return True
        status = found["EndpointStatus"]
        if status == "InService":
            return self._retire() if self._is_retired() else self._serve()
        if status == "Failed":
            return self._give_up(found)
        return status != "Deleting" or self._wanted is None  # what else changes tells when it is done

    def _wanted_by(self, subject: str | None) -> Hosted | None:
        hosted = self._subjects.hosted(subject) if subject else None
        return hosted if hosted and hosted.endpoint_name == self._name else None

    def _make(self) -> None:
        """As it was before the service stack was removed, or the endpoint failed: nothing is trained."""
        if self._wanted is None:
            return
        logger.info("making the endpoint again")
        try:
            hosting.create(plan_promoted(self._env, DataBucket(self._env.data_bucket), self._wanted))
        except HostingFailed as refusal:
            logger.error(str(refusal))
            self._fail_waiting(refusal.report)

    def _serve(self) -> bool:
        let_it_rest(self._env, self._name)
        waiting = [row for row in self._line.waiting(self._name, datetime.now(UTC)) if not row.submitted]
        for row in waiting:
            hosting.submit(self._name, row.id, row.body(), answer_type(row.request.format))
            self._line.mark_submitted(row.id)
            metrics.add_metric(name=GENERATIONS_ACCEPTED, unit="Count", value=row.request.images)
        if waiting:
            hosting.wake(self._name)
        return True

    def _give_up(self, found: dict[str, Any]) -> bool:
        """What waits is told; whoever asks later is let in again by another try."""
        reason = found.get("FailureReason", "no reason")
        self._fail_waiting(HostingFailed(f"The endpoint {self._name} failed: {reason}").report)
        if self._wanted is None or datetime.now(UTC) - found["LastModifiedTime"] < BETWEEN_TRIES:
            return True
        hosting.delete(self._name)
        return False

    def _fail_waiting(self, report: ErrorReport) -> None:
        now = datetime.now(UTC)
        for row in list(self._line.waiting(self._name, now)):
            if self._line.fail(row, now, report):
                metrics.add_metric(name=GENERATIONS_FAILED, unit="Count", value=1)

    def _is_retired(self) -> bool:
        subject = subject_of_own(self._env.resource_prefix, self._name)
        return subject is not None and not self._subjects.uses(subject, self._name)

    def _retire(self) -> bool:
        """Once it has answered everybody."""
        if is_awaited(self._env, self._name):
            return False
        logger.info("removing an endpoint that nobody needs")
        leftovers.remove_with_models(self._name)
        return True


@logger.inject_lambda_context(clear_state=True)
@tracer.capture_lambda_handler
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> Any:
    return process_partial_response(event=event, record_handler=keep, processor=processor, context=context)
