"""Every training job that ends is settled, also one that no execution waits for any more (stopped, timed out).

Triggered by EventBridge, for jobs of this deployment.
"""

from __future__ import annotations

from typing import Any

from aws_lambda_powertools.utilities.parser import parse
from aws_lambda_powertools.utilities.parser.models import EventBridgeModel
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel

from contracts.environment import SettleEnvironment
from contracts.pipeline import DatasetTaken
from contracts.storage import parse_training_job_name, run_id
from lambdas.adapters import jobs
from lambdas.adapters.configuration import environment
from lambdas.adapters.observability import logger, metrics, tracer
from lambdas.domain.training_job import EndedJob
from lambdas.pipeline.receipts import settle


class JobEnded(BaseModel):
    """The rest is asked for: the event does not tell what is billed."""

    TrainingJobName: str


@logger.inject_lambda_context(clear_state=True)
@tracer.capture_lambda_handler
@metrics.log_metrics
def handler(event: dict[str, Any], context: LambdaContext) -> None:
    env = environment(SettleEnvironment)
    name = JobEnded.model_validate(parse(event=event, model=EventBridgeModel).detail).TrainingJobName
    parts = parse_training_job_name(env.resource_prefix, name)
    if parts is None:  # of another deployment, whose prefix begins with ours
        return
    run = run_id(parts.subject, parts.dataset_id)
    logger.append_keys(correlation_id=run)
    job = EndedJob.model_validate(jobs.describe(name))
    taken = DatasetTaken(subject=parts.subject, dataset_id=parts.dataset_id, run_id=run)
    settle(env, taken, job.receipt(parts.attempt, is_billed=env.training_is_billed))
