"""JudgeModel: is the model whole, and good enough to be served?"""

from __future__ import annotations

from contracts.artifact import ARTIFACT, Artifact
from contracts.environment import StoreEnvironment
from contracts.errors import TrainingCrashed
from contracts.pipeline import ModelJudged, ModelTrained
from contracts.storage import version_prefix
from lambdas.adapters.configuration import environment
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.table import Subjects
from lambdas.domain.judgement import check_complete, judge
from lambdas.pipeline.state import state


@state(ModelTrained)
def handler(trained: ModelTrained) -> ModelJudged:
    env = environment(StoreEnvironment)
    bucket = DataBucket(env.data_bucket)
    billed = {} if trained.billable_seconds is None else {"billable_seconds": trained.billable_seconds}
    Subjects(env.table_name).enter(trained, "judging", **billed)
    prefix = f"{(bucket.key_of(trained.artifact_uri) or '').rstrip('/')}/"
    content = bucket.read(prefix + ARTIFACT)
    if not prefix.startswith(version_prefix(trained.subject, trained.version)) or content is None:
        raise TrainingCrashed(f"The training job left no {ARTIFACT} under {trained.artifact_uri}.")
    artifact = Artifact.model_validate_json(content)
    check_complete(artifact, {item.key.removeprefix(prefix): item.size for item in bucket.list(prefix)})
    judge(artifact)
    return ModelJudged(**trained.model_dump(), artifact_prefix=prefix)
