"""JudgeModel: is the model whole, and good enough to be served?"""

from __future__ import annotations

from contracts.artifact import ARTIFACT, Artifact
from contracts.environment import TrainingEnvironment
from contracts.errors import TrainingCrashed
from contracts.pipeline import ModelJudged, ModelTrained
from contracts.storage import version_prefix
from lambdas.adapters.configuration import environment
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.table import Subjects
from lambdas.domain.judgement import check_complete, judge
from lambdas.domain.pricing import job_receipt
from lambdas.pipeline.receipts import settle
from lambdas.pipeline.state import state


@state(ModelTrained)
def handler(trained: ModelTrained) -> ModelJudged:
    env = environment(TrainingEnvironment)
    bucket = DataBucket(env.data_bucket)
    Subjects(env.table_name).enter(trained, "judging")
    _settle(env, trained)
    prefix = f"{(bucket.key_of(trained.artifact_uri) or '').rstrip('/')}/"
    content = bucket.read(prefix + ARTIFACT)
    if not prefix.startswith(version_prefix(trained.subject, trained.version)) or content is None:
        raise TrainingCrashed(f"The training job left no {ARTIFACT} under {trained.artifact_uri}.")
    artifact = Artifact.model_validate_json(content)
    check_complete(artifact, {item.key.removeprefix(prefix): item.size for item in bucket.list(prefix)})
    judge(artifact)
    return ModelJudged(**trained.model_dump(), artifact_prefix=prefix)


def _settle(env: TrainingEnvironment, trained: ModelTrained) -> None:
    receipt = job_receipt(
        trained.attempt,
        trained.quote.instance_type,
        is_billed=env.training_is_billed,
        training_seconds=trained.training_seconds,
        billable_seconds=trained.billable_seconds or 0,
        spot=trained.capacity == "spot",
        keep_alive_seconds=trained.training_job["ResourceConfig"].get("KeepAlivePeriodInSeconds", 0),
    )
    settle(env, trained, receipt)
