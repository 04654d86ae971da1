"""PublishModel: the version's manifest is written last; from then on the version exists and can be drawn."""

from __future__ import annotations

from datetime import UTC, datetime

from contracts.artifact import ARTIFACT, Artifact, VersionManifest
from contracts.environment import StoreEnvironment
from contracts.errors import InternalError
from contracts.pipeline import ModelJudged, VersionPublished
from contracts.storage import version_manifest_key
from lambdas.adapters.configuration import environment
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.table import Subjects
from lambdas.pipeline.state import state


@state(ModelJudged)
def handler(judged: ModelJudged) -> VersionPublished:
    env = environment(StoreEnvironment)
    bucket = DataBucket(env.data_bucket)
    Subjects(env.table_name).enter(judged, "publishing")
    content = bucket.read(judged.artifact_prefix + ARTIFACT)
    if content is None:
        raise InternalError(f"{judged.artifact_prefix}{ARTIFACT} is gone.")
    manifest = VersionManifest(
        subject=judged.subject,
        version=judged.version,
        prefix=judged.artifact_prefix,
        dataset_id=judged.dataset_id,
        training_job=judged.job_name,
        published_at=datetime.now(UTC),
        artifact=Artifact.model_validate_json(content),
    )
    bucket.write(version_manifest_key(judged.subject, judged.version), manifest.model_dump_json(indent=2).encode())
    return VersionPublished(**judged.model_dump())
