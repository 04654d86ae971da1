"""PublishModel: the version's manifest is written last; from then on the version exists and can be drawn."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from contracts.artifact import ARTIFACT, Artifact, VersionManifest
from contracts.environment import StoreEnvironment
from contracts.errors import InternalError
from contracts.pipeline import ModelJudged, VersionPublished
from contracts.storage import checkpoint_prefix, class_image_folder, class_image_set_prefix, version_manifest_key
from lambdas.adapters.configuration import environment
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.table import Subjects
from lambdas.pipeline.state import state

PARALLEL_COPIES = 16


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
    _keep_class_images(bucket, judged, manifest.artifact.base_model_checksum)
    bucket.write(version_manifest_key(judged.subject, judged.version), manifest.model_dump_json(indent=2).encode())
    return VersionPublished(**judged.model_dump())


def _keep_class_images(bucket: DataBucket, judged: ModelJudged, base_model_checksum: str) -> None:
    """The next job with this class need not draw them again: minutes of a GPU, for a few copies within the bucket."""
    checkpoints = checkpoint_prefix(judged.subject, judged.dataset_id)
    with ThreadPoolExecutor(PARALLEL_COPIES) as pool:
        copies = [
            pool.submit(
                bucket.copy_unchanged,
                picture.key,
                picture.etag,
                class_image_set_prefix(name) + picture.key.rpartition("/")[2],
            )
            for name in judged.request.class_image_sets(base_model_checksum)
            for picture in bucket.list(f"{checkpoints}{class_image_folder(name)}/")
            if picture.key.endswith(".png")
        ]
        for copy in copies:
            copy.result()
