"""TellReady: the subject can be drawn."""

from __future__ import annotations

from contracts.environment import TellEnvironment
from contracts.metrics import SUBJECTS_READY
from contracts.pipeline import SubjectEvent, VersionHosted
from lambdas.adapters import events
from lambdas.adapters.configuration import environment
from lambdas.adapters.observability import metrics
from lambdas.adapters.table import Subjects
from lambdas.pipeline.state import state


@state(VersionHosted)
def handler(hosted: VersionHosted) -> SubjectEvent:
    env = environment(TellEnvironment)
    subjects = Subjects(env.table_name)
    run = subjects.run(hosted.subject, hosted.run_id)
    ready = SubjectEvent(
        event="subject.ready",
        subject=hosted.subject,
        run_id=hosted.run_id,
        version=hosted.version,
        receipt=run.receipt if run else None,
        link=f"/v1/subjects/{hosted.subject}",
    )
    if subjects.is_running(hosted):  # told first: what dies in between is told again, not never
        events.publish(env.subject_topic_arn, ready)
    if subjects.succeed(hosted):
        metrics.add_metric(name=SUBJECTS_READY, unit="Count", value=1)
    return ready
