"""Recover: after any failure, another attempt or the end."""

from __future__ import annotations

from contracts.environment import PlanEnvironment
from contracts.pipeline import FailedState, Recovery
from lambdas.adapters.configuration import environment
from lambdas.adapters.observability import logger
from lambdas.domain.recovery import recover
from lambdas.pipeline.state import state


@state(FailedState)
def handler(failed: FailedState) -> Recovery:
    decision = recover(failed, rungs=len(environment(PlanEnvironment).training_instance_types))
    logger.info("recovery", extra={"error": failed.error.plain(), "decision": decision.plain()})
    return decision
