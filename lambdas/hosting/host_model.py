"""HostModel: makes the shared endpoint of the base model, or waits for it. Called until it is in service; then the
subject's alias moves to the new version and its endpoint, in one conditional write, and the containers are told."""

from __future__ import annotations

from contracts.artifact import PromotedVersion
from contracts.environment import HostEnvironment
from contracts.errors import HostingFailed
from contracts.pipeline import VersionHosted, VersionPublished
from contracts.storage import promoted_key
from lambdas.adapters import hosting
from lambdas.adapters.configuration import environment
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.observability import logger
from lambdas.adapters.table import Subjects
from lambdas.domain.endpoints import EndpointPlan
from lambdas.pipeline.state import state

WAITED_FOR = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
MOST_WRITES = 20  # each failed one is another run's success


class HostingRound(VersionPublished):
    """A later round of the loop carries what the round before saw."""

    endpoint_status: str | None = None
    endpoint_created: bool = False


@state(HostingRound)
def handler(round_: HostingRound) -> VersionHosted:
    env = environment(HostEnvironment)
    bucket = DataBucket(env.data_bucket)
    subjects = Subjects(env.table_name)
    first_round = round_.endpoint_status is None
    if first_round:
        subjects.enter(round_, "hosting")
    plan = _plan(env, bucket, round_.request.base_model)
    status, created_now = _ensure(plan, first_round)
    created = round_.endpoint_created or created_now
    if status == "InService":
        hosting.let_it_sleep(plan)
        if created and env.sleep_after_creation:
            hosting.send_to_sleep(plan.endpoint_name)
        request = round_.request
        promoted = subjects.promote(
            round_, round_.version, plan.endpoint_name, request.base_model, request.instance_prompt
        )
        if promoted is None:
            logger.info("a newer dataset has been promoted meanwhile; this version is kept beside it")
        else:
            _tell_containers(bucket, round_.subject, promoted)
    payload = round_.model_dump(exclude={"endpoint_status", "endpoint_created"})
    return VersionHosted(**payload, endpoint_name=plan.endpoint_name, endpoint_status=status, endpoint_created=created)


def _tell_containers(bucket: DataBucket, subject: str, promoted: PromotedVersion) -> None:
    """They cannot read the table. A run that promoted a newer dataset meanwhile has the last word here too."""
    key = promoted_key(subject)
    for _ in range(MOST_WRITES):
        found = bucket.read_tagged(key)
        if found and PromotedVersion.model_validate_json(found.content).taken_at > promoted.taken_at:
            return
        if bucket.replace(key, promoted.model_dump_json().encode(), found.etag if found else None):
            return
    raise HostingFailed(f"{key} could not be written: others write it all the time.")


def _plan(env: HostEnvironment, bucket: DataBucket, base_model: str) -> EndpointPlan:
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
    )


def _ensure(plan: EndpointPlan, first_round: bool) -> tuple[str, bool]:
    """(status, created now) after doing the next thing that it needs. Raises HostingFailed."""
    found = hosting.describe(plan.endpoint_name)
    if found is None:
        logger.info("creating the endpoint", extra={"endpoint": plan.endpoint_name})
        hosting.create(plan)
        return "Creating", True
    status = str(found["EndpointStatus"])
    outdated = status == "InService" and found["EndpointConfigName"] != plan.config_name
    if outdated and not first_round:
        reason = found.get("FailureReason", "the new configuration did not come up")
        raise HostingFailed(f"The endpoint {plan.endpoint_name} was rolled back: {reason}")
    if outdated:
        logger.info("updating the endpoint", extra={"endpoint": plan.endpoint_name, "config": plan.config_name})
        hosting.update(plan)
        return "Updating", False
    if status == "Failed" and first_round:  # left over from an earlier run
        hosting.delete(plan.endpoint_name)
        return "Deleting", False
    if status != "InService" and status not in WAITED_FOR:
        raise HostingFailed(f"The endpoint {plan.endpoint_name} is {status}: {found.get('FailureReason', 'no reason')}")
    return status, False
