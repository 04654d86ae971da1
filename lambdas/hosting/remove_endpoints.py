"""RemoveEndpoints: a custom resource that makes nothing, and at the end of the stack stops what runs and removes what
was made at run time. Without it endpoints would go on, and be billed, in an account where nothing else of the stack is
left."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from contracts.environment import RemovalEnvironment
from lambdas.adapters import cloudformation, events, leftovers
from lambdas.adapters.configuration import environment
from lambdas.adapters.observability import logger, tracer

PHYSICAL_ID = "endpoints"
PAUSE_SECONDS = 10.0
NEEDED_MS = 60_000  # before the end of the function's time: to tell CloudFormation that it did not work


def remove_everything(env: RemovalEnvironment, context: LambdaContext) -> None:
    """Safe to repeat. Raises StillChanging when an endpoint is not done changing within the function's time, or its
    network interfaces are still there, which hold on to the network."""
    running = events.running_executions(env.state_machine_arn)
    for run in running:
        logger.info("stopping a run", extra={"correlation_id": run})
        events.stop_execution(env.state_machine_arn, run, "The service is being removed.")
    if running:  # a step that had begun may still make a job or an endpoint
        time.sleep(env.in_flight_seconds)
    for job in leftovers.running_jobs_of(env.resource_prefix, env.training_role_arn):
        logger.info("stopping a training job", extra={"job": job})
        leftovers.stop_job(job)
    models = leftovers.models_of(env.resource_prefix, env.inference_role_arn)
    for endpoint in leftovers.endpoints_with(set(models), env.resource_prefix):
        logger.info("removing an endpoint", extra={"endpoint": endpoint})
        _retry_while_changing(partial(leftovers.remove_endpoint, endpoint), context)
    for model in models:
        leftovers.remove_model(model)
    if env.security_group_id:
        _retry_while_changing(partial(leftovers.expect_no_interfaces, env.security_group_id), context)


def _retry_while_changing(step: Callable[[], None], context: LambdaContext) -> None:
    while True:
        try:
            step()
        except leftovers.StillChanging:
            if context.get_remaining_time_in_millis() < NEEDED_MS:
                raise
            time.sleep(PAUSE_SECONDS)
        else:
            return


@logger.inject_lambda_context(clear_state=True)
@tracer.capture_lambda_handler
def handler(event: dict[str, Any], context: LambdaContext) -> None:
    """A failure is CloudFormation's to show: the stack stays, and deleting it again tries again."""
    failure = ""
    if event["RequestType"] == "Delete":
        try:
            remove_everything(environment(RemovalEnvironment), context)
        except Exception as error:  # noqa: BLE001  whatever it was, CloudFormation is told
            logger.exception("not everything could be removed")
            failure = f"Endpoints are left ({type(error).__name__}: {error}). Delete the stack again in a few minutes."
    cloudformation.answer(event, PHYSICAL_ID, failure)
