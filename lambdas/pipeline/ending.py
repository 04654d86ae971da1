"""How a run ends badly: recorded once, told at least once."""

from __future__ import annotations

from contracts.environment import TellEnvironment
from contracts.errors import ErrorReport
from contracts.metrics import RUNS_FAILED
from contracts.pipeline import DatasetTaken, SubjectEvent
from lambdas.adapters import events
from lambdas.adapters.observability import metrics
from lambdas.adapters.table import Subjects


def end_as_failed(env: TellEnvironment, taken: DatasetTaken, report: ErrorReport) -> SubjectEvent:
    subjects = Subjects(env.table_name)
    run = subjects.run(taken.subject, taken.run_id)
    failed = SubjectEvent(
        event="subject.failed",
        subject=taken.subject,
        run_id=taken.run_id,
        receipt=run.receipt if run else None,
        error=report,
        link=f"/v1/subjects/{taken.subject}",
    )
    if subjects.is_running(taken):  # told first: what dies in between is told again, not never
        events.publish(env.subject_topic_arn, failed)
    if subjects.fail(taken, report):
        metrics.add_metric(name=RUNS_FAILED, unit="Count", value=1)
    return failed
