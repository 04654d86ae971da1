"""The endpoint that a subject is to be drawn by, with its scaling: from the function's environment and the bucket."""

from __future__ import annotations

from contracts.environment import HostEnvironment
from contracts.errors import HostingFailed
from contracts.pipeline import VersionPublished
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.table import Hosted
from lambdas.domain.endpoints import EndpointPlan, OwnSubject
from lambdas.domain.scaling import Scaling


def plan_published(env: HostEnvironment, bucket: DataBucket, published: VersionPublished) -> EndpointPlan:
    """Of a version that is to be promoted. Raises UnknownBaseModel."""
    own = None
    if published.request.hosting == "dedicated":
        own = OwnSubject(published.subject, published.version, published.artifact_prefix)
    return _plan(env, bucket, published.request.base_model, own)


def plan_promoted(env: HostEnvironment, bucket: DataBucket, hosted: Hosted) -> EndpointPlan:
    """Of the version that was promoted. Raises UnknownBaseModel or HostingFailed."""
    own = None
    if hosted.hosting == "dedicated":
        manifest = bucket.version_manifest(hosted.subject, hosted.version)
        if manifest is None:
            raise HostingFailed(f"The version {hosted.version} of {hosted.subject} is gone.")
        own = OwnSubject(hosted.subject, hosted.version, manifest.prefix)
    return _plan(env, bucket, hosted.base_model, own)


def scaling_of(env: HostEnvironment, endpoint_name: str) -> Scaling:
    return Scaling(endpoint_name, env.inference_max_instances, env.alarm_topic_arn)


def _plan(env: HostEnvironment, bucket: DataBucket, base_model: str, subject: OwnSubject | None) -> EndpointPlan:
    """Without a subject: that of the base model, which all its other subjects share."""
    return EndpointPlan(
        prefix=env.resource_prefix,
        base_model=base_model,
        base_model_checksum=bucket.base_model(base_model).checksum,
        bucket=env.data_bucket,
        image=env.inference_image,
        role_arn=env.inference_role_arn,
        instance_type=env.inference_instance_type,
        success_topic_arn=env.inference_success_topic_arn,
        error_topic_arn=env.inference_error_topic_arn,
        blocked_words=tuple(env.blocked_words),
        watermark=env.watermark,
        subnet_ids=tuple(env.subnet_ids),
        security_group_ids=tuple(env.security_group_ids),
        output_key_arn=env.output_key_arn,
        volume_key_arn=env.volume_key_arn,
        subject=subject,
    )
