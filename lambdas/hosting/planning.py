"""The endpoint that a subject is to be drawn by, from the function's environment and the data bucket."""

from __future__ import annotations

from contracts.environment import HostEnvironment
from lambdas.adapters.data_bucket import DataBucket
from lambdas.domain.endpoints import EndpointPlan, OwnSubject


def plan_endpoint(
    env: HostEnvironment, bucket: DataBucket, base_model: str, subject: OwnSubject | None
) -> EndpointPlan:
    """Without a subject: that of the base model, which all its other subjects share. Raises UnknownBaseModel."""
    return EndpointPlan(
        prefix=env.resource_prefix,
        base_model=base_model,
        base_model_checksum=bucket.base_model(base_model).checksum,
        bucket=env.data_bucket,
        image=env.inference_image,
        role_arn=env.inference_role_arn,
        instance_type=env.inference_instance_type,
        max_instances=env.inference_max_instances,
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
