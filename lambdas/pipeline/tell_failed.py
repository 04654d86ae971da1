"""TellFailed: the run ends as failed, with a code, a cause and a cure."""

from __future__ import annotations

from contracts.environment import TellEnvironment
from contracts.pipeline import RunFailed, SubjectEvent
from lambdas.adapters.configuration import environment
from lambdas.pipeline.ending import end_as_failed
from lambdas.pipeline.state import state


@state(RunFailed)
def handler(failed: RunFailed) -> SubjectEvent:
    return end_as_failed(environment(TellEnvironment), failed, failed.failure)
