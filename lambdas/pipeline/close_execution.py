"""The safety net under the state machine: an execution that ended without telling (aborted, timed out, or broken
in its own error handling) still ends its run as failed, and its training job with it. Triggered by EventBridge."""

from __future__ import annotations

from typing import Any, Literal

from aws_lambda_powertools.utilities.parser import parse
from aws_lambda_powertools.utilities.parser.models import EventBridgeModel
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel

from contracts.environment import CloseEnvironment
from contracts.errors import DreamdropError, InternalError, Interrupted
from contracts.pipeline import DatasetTaken
from contracts.storage import training_job_name
from lambdas.adapters import leftovers
from lambdas.adapters.configuration import environment
from lambdas.adapters.observability import logger, metrics, tracer
from lambdas.adapters.table import Subjects
from lambdas.pipeline.ending import end_as_failed

MOST_TOLD = 300  # characters of what Step Functions says


class ExecutionEnded(BaseModel):
    """https://docs.aws.amazon.com/step-functions/latest/dg/eventbridge-integration.html"""

    status: Literal["FAILED", "TIMED_OUT", "ABORTED"]
    input: str | None = None
    error: str | None = None
    cause: str | None = None


def reason(ended: ExecutionEnded) -> DreamdropError:
    if ended.status == "TIMED_OUT":
        return Interrupted("The run took longer than the deployment allows.")
    if ended.status == "ABORTED":
        return Interrupted("The run was stopped from outside.")
    if ended.error == "States.ServiceRestart":
        return Interrupted("The local cloud was restarted while the run was going on.")
    told = ": ".join(text for text in (ended.error, ended.cause) if text)
    return InternalError(f"The run ended without a reason of its own ({told[:MOST_TOLD]}).")


@logger.inject_lambda_context(clear_state=True)
@tracer.capture_lambda_handler
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> None:
    ended = ExecutionEnded.model_validate(parse(event=event, model=EventBridgeModel).detail)
    taken = DatasetTaken.model_validate_json(ended.input or "{}")
    logger.append_keys(correlation_id=taken.run_id)
    env = environment(CloseEnvironment)
    end_as_failed(env, taken, reason(ended).report)
    _stop_training(env, taken)


def _stop_training(env: CloseEnvironment, taken: DatasetTaken) -> None:
    """Of the last attempt, if there was one. AWS says that stopping an execution ends it, not that a timeout does."""
    run = Subjects(env.table_name).run(taken.subject, taken.run_id)
    if run and run.version:
        leftovers.stop_job(training_job_name(env.resource_prefix, taken.subject, run.version))
