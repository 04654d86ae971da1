"""Recover: after any failure, another attempt or the end."""

from __future__ import annotations

import random

from contracts.environment import PlanEnvironment
from contracts.pipeline import FailedState, Recovery
from lambdas.adapters import leftovers
from lambdas.adapters.configuration import environment
from lambdas.adapters.observability import logger
from lambdas.domain.failures import ended_job, is_refusal, is_timeout
from lambdas.domain.pricing import job_receipt
from lambdas.domain.recovery import recover
from lambdas.pipeline.receipts import settle
from lambdas.pipeline.state import state


def _settle(env: PlanEnvironment, failed: FailedState) -> None:
    """Before another attempt reserves more. A job that goes on ending, as after a timeout, is settled by its event.

    A request that failed may have been carried out all the same, and AWS does not say that a timeout ends the job: it
    is not to run on, unseen and billed.
    """
    job = ended_job(failed.error)
    if job is not None:
        settle(env, failed, job.receipt(failed.attempt, is_billed=env.training_is_billed))
    elif failed.training_job is not None and (is_refusal(failed.error) or is_timeout(failed.error)):
        name = failed.training_job["TrainingJobName"]
        if leftovers.stop_job(name):
            logger.warning("stopped a training job that nobody waits for", extra={"job": name})
        else:
            instance_type = failed.training_job["ResourceConfig"]["InstanceType"]
            settle(env, failed, job_receipt(failed.attempt, instance_type, is_billed=env.training_is_billed))


@state(FailedState)
def handler(failed: FailedState) -> Recovery:
    env = environment(PlanEnvironment)
    _settle(env, failed)
    decision = recover(
        failed,
        env.training_instance_types,
        capacity=env.training_capacity,
        pause_seconds=env.training_pause_seconds,
        jitter=random.random(),  # noqa: S311  nothing secret
    )
    logger.info("recovery", extra={"error": failed.error.plain(), "decision": decision.plain()})
    return decision
