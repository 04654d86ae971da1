"""HostModel: makes or updates the endpoint that is to draw the version, or waits for it. Called until it is in service;
then the subject's alias moves to the new version and its endpoint, in one conditional write, and the containers are
told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from contracts.artifact import PromotedVersion
from contracts.environment import HostEnvironment
from contracts.errors import HostingFailed
from contracts.pipeline import EndpointNotice, VersionHosted, VersionPublished
from contracts.storage import promoted_key
from lambdas.adapters import events, hosting
from lambdas.adapters.configuration import environment
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.observability import logger
from lambdas.adapters.table import Subjects
from lambdas.domain.endpoints import BETWEEN_TRIES, EndpointPlan, own_endpoint_name
from lambdas.domain.failures import lacks_capacity
from lambdas.hosting.planning import plan_published, scaling_of
from lambdas.hosting.resting import let_it_rest
from lambdas.pipeline.state import state

WAITED_FOR = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
MOST_FAILURES = 3  # for want of an instance: with SageMaker's own search for one, more than an hour
NAME_CURE = "Choose another resource prefix in the settings, or import the base model under another id."
CAPACITY_CURE = "Upload any file of the dataset again later, or name another inference_instance_type in the settings."
MOST_WRITES = 20  # each failed one is another run's success


class HostingRound(VersionPublished):
    """A later round of the loop carries what the round before saw."""

    endpoint_status: str | None = None
    endpoint_changed: bool = False
    endpoint_failures: int = 0


class Step(NamedTuple):
    """What was found, after doing the next thing that the endpoint needs."""

    status: str
    changed: bool  # by this run
    failures: int  # seen by this run, for want of an instance


@state(HostingRound)
def handler(round_: HostingRound) -> VersionHosted:
    env = environment(HostEnvironment)
    bucket = DataBucket(env.data_bucket)
    subjects = Subjects(env.table_name)
    plan = plan_published(env, bucket, round_)
    if round_.endpoint_status is None:
        subjects.enter(round_, "hosting")
        subjects.want_endpoint(round_.subject, plan.endpoint_name)
    if plan.subject and not subjects.may_promote(round_):  # a newer version is there, which is left as it is
        step = Step("InService", round_.endpoint_changed, round_.endpoint_failures)
    else:
        step = _ensure(env, plan, round_.endpoint_changed, round_.endpoint_failures)
    if step.status == "InService":
        _promote(env, bucket, subjects, round_, plan)
    return VersionHosted(
        **round_.model_dump(exclude={"endpoint_status", "endpoint_changed", "endpoint_failures"}),
        endpoint_name=plan.endpoint_name,
        endpoint_status=step.status,
        endpoint_changed=step.changed,
        endpoint_failures=step.failures,
    )


def _promote(
    env: HostEnvironment, bucket: DataBucket, subjects: Subjects, round_: HostingRound, plan: EndpointPlan
) -> None:
    request = round_.request
    promoted = subjects.promote(
        round_, round_.version, plan.endpoint_name, request.base_model, request.instance_prompt, request.hosting
    )
    if promoted is None:
        logger.info("a newer dataset has been promoted meanwhile; this version is kept beside it")
        return
    _tell_containers(bucket, round_.subject, promoted)
    own = own_endpoint_name(env.resource_prefix, round_.subject)
    if plan.endpoint_name != own and hosting.describe(own):
        events.look_at_endpoint(env.hosting_queue_url, EndpointNotice(endpoint_name=own))  # nobody needs it any more


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


def _ensure(env: HostEnvironment, plan: EndpointPlan, changed: bool, failures: int) -> Step:
    """Raises HostingFailed."""
    name = plan.endpoint_name
    found = hosting.describe(name)
    if found is None:
        logger.info("creating the endpoint", extra={"endpoint": name})
        hosting.create(plan)
        return Step("Creating", True, failures)
    status = str(found["EndpointStatus"])
    if status != "Deleting" and not hosting.is_run_by(found, env.inference_role_arn):
        raise HostingFailed(f"There is an endpoint {name} that is not this deployment's.", NAME_CURE)
    if status == "InService":
        outdated = found["EndpointConfigName"] != plan.config_name
        if outdated and not changed:
            return _update(env, plan, found, failures)
        let_it_rest(env, name)
        if outdated:
            reason = found.get("FailureReason", "the new configuration did not come up")
            raise HostingFailed(f"The endpoint {name} was rolled back: {reason}")
    elif status == "Failed" and not changed:  # left over from an earlier run
        hosting.delete(name)
        return Step("Deleting", False, failures)
    elif status == "Failed" and failures < MOST_FAILURES and lacks_capacity(found.get("FailureReason", "")):
        if datetime.now(UTC) - found["LastModifiedTime"] >= BETWEEN_TRIES:
            hosting.delete(name)
            return Step("Deleting", True, failures + 1)
    elif status not in WAITED_FOR:
        reason = found.get("FailureReason", "no reason")
        cure = CAPACITY_CURE if lacks_capacity(reason) else None
        raise HostingFailed(f"The endpoint {name} is {status}: {reason}", cure)
    return Step(status, changed, failures)


def _update(env: HostEnvironment, plan: EndpointPlan, found: dict[str, Any], failures: int) -> Step:
    """Where a quota forbids it, a shared endpoint draws the new version as it is: versions are fetched when they are
    asked for. The next run tries again. Raises HostingFailed."""
    name = plan.endpoint_name
    logger.info("updating the endpoint", extra={"endpoint": name, "config": plan.config_name})
    try:
        return Step("Updating", hosting.update(plan, scaling_of(env, name)), failures)
    except HostingFailed as refusal:
        if plan.subject or not hosting.has_base_model(found, plan.base_model_checksum):
            raise
        logger.warning("the endpoint keeps its configuration", extra={"endpoint": name, "cause": refusal.cause})
        return Step("InService", False, failures)
