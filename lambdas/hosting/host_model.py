"""HostModel: makes the shared endpoint of the base model, or waits for it. Called until it is in service; then the
subject's alias moves to the new version and its endpoint, in one conditional write."""

from __future__ import annotations

from contracts.environment import HostEnvironment
from contracts.errors import HostingFailed
from contracts.pipeline import VersionHosted, VersionPublished
from lambdas.adapters import hosting
from lambdas.adapters.configuration import environment
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.observability import logger
from lambdas.adapters.table import Subjects
from lambdas.domain.endpoints import EndpointPlan
from lambdas.pipeline.state import state

WAITED_FOR = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")


class HostingRound(VersionPublished):
    """A later round of the loop carries what the round before saw."""

    endpoint_status: str | None = None


@state(HostingRound)
def handler(round_: HostingRound) -> VersionHosted:
    env = environment(HostEnvironment)
    subjects = Subjects(env.table_name)
    first_round = round_.endpoint_status is None
    if first_round:
        subjects.enter(round_, "hosting")
    plan = _plan(env, round_.request.base_model)
    status = _ensure(plan, first_round)
    if status == "InService":
        hosting.let_it_sleep(plan)
        request = round_.request
        if not subjects.promote(
            round_, round_.version, plan.endpoint_name, request.base_model, request.instance_prompt
        ):
            logger.info("a newer dataset has been promoted meanwhile; this version is kept beside it")
    payload = round_.model_dump(exclude={"endpoint_status"})
    return VersionHosted(**payload, endpoint_name=plan.endpoint_name, endpoint_status=status)


def _plan(env: HostEnvironment, base_model: str) -> EndpointPlan:
    return EndpointPlan(
        prefix=env.resource_prefix,
        base_model=base_model,
        base_model_checksum=DataBucket(env.data_bucket).base_model(base_model).checksum,
        bucket=env.data_bucket,
        image=env.inference_image,
        role_arn=env.inference_role_arn,
        instance_type=env.inference_instance_type,
        max_instances=env.inference_max_instances,
        success_topic_arn=env.inference_success_topic_arn,
        error_topic_arn=env.inference_error_topic_arn,
    )


def _ensure(plan: EndpointPlan, first_round: bool) -> str:
    """The endpoint's status after doing the next thing that it needs. Raises HostingFailed."""
    found = hosting.describe(plan.endpoint_name)
    if found is None:
        logger.info("creating the endpoint", extra={"endpoint": plan.endpoint_name})
        hosting.create(plan)
        return "Creating"
    status = str(found["EndpointStatus"])
    outdated = status == "InService" and found["EndpointConfigName"] != plan.config_name
    if outdated and not first_round:
        reason = found.get("FailureReason", "the new configuration did not come up")
        raise HostingFailed(f"The endpoint {plan.endpoint_name} was rolled back: {reason}")
    if outdated:
        logger.info("updating the endpoint", extra={"endpoint": plan.endpoint_name, "config": plan.config_name})
        hosting.update(plan)
        return "Updating"
    if status == "Failed" and first_round:  # left over from an earlier run
        hosting.delete(plan.endpoint_name)
        return "Deleting"
    if status != "InService" and status not in WAITED_FOR:
        raise HostingFailed(f"The endpoint {plan.endpoint_name} is {status}: {found.get('FailureReason', 'no reason')}")
    return status
