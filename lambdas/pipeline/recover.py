"""Recover: after any failure, another attempt or the end."""

from __future__ import annotations

import random

from contracts.environment import PlanEnvironment
from contracts.pipeline import FailedState, Recovery
from lambdas.adapters.configuration import environment
from lambdas.adapters.observability import logger
from lambdas.domain.recovery import recover
from lambdas.pipeline.state import state


@state(FailedState)
def handler(failed: FailedState) -> Recovery:
    env = environment(PlanEnvironment)
    decision = recover(
        failed,
        env.training_instance_types,
        capacity=env.training_capacity,
        pause_seconds=env.training_pause_seconds,
        jitter=random.random(),  # noqa: S311  nothing secret
    )
    logger.info("recovery", extra={"error": failed.error.plain(), "decision": decision.plain()})
    return decision
