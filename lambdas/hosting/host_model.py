"""HostModel: makes or updates the endpoint that is to draw the version, or waits for it. Called until it is in service;
then the subject's alias moves to the new version and its endpoint, in one conditional write, and the containers are
told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from botocore.exceptions import ClientError

from contracts.artifact import PromotedVersion
from contracts.environment import HostEnvironment
from contracts.errors import HostingFailed
from contracts.pipeline import EndpointNotice, VersionHosted, VersionPublished
from contracts.storage import promoted_key
from lambdas.adapters import events, hosting
from lambdas.adapters.clients import error_code
from lambdas.adapters.configuration import environment
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.observability import logger
from lambdas.adapters.table import Subjects
from lambdas.domain.endpoints import BETWEEN_TRIES, EndpointPlan, OwnSubject, own_endpoint_name
from lambdas.domain.failures import lacks_capacity
from lambdas.hosting.planning import plan_endpoint
from lambdas.hosting.resting import let_it_rest
from lambdas.pipeline.state import state

WAITED_FOR = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
MOST_FAILURES = 3  # for want of an instance: with SageMaker's own search for one, more than an hour
QUOTA_CURE = (
    "Ask for a larger quota in AWS's Service Quotas (service Amazon SageMaker, quota '<instance type> for endpoint "
    "usage'), or name another inference_instance_type in the settings; then upload any file again."
)
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
    plan = plan_endpoint(env, bucket, round_.request.base_model, _own_subject(round_))
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


def _own_subject(round_: HostingRound) -> OwnSubject | None:
    if round_.request.hosting == "shared":
        return None
    return OwnSubject(round_.subject, round_.version, round_.artifact_prefix)


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
        with _quota_told():
            hosting.create(plan)
        return Step("Creating", True, failures)
    status = str(found["EndpointStatus"])
    if status == "InService":
        outdated = found["EndpointConfigName"] != plan.config_name
        if outdated and not changed:
            logger.info("updating the endpoint", extra={"endpoint": name, "config": plan.config_name})
            with _quota_told():
                return Step("Updating", hosting.update(plan), failures)
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


@contextmanager
def _quota_told() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if error_code(error) != "ResourceLimitExceeded":
            raise
        refusal = error.response["Error"]["Message"]
        raise HostingFailed(f"SageMaker refused the endpoint: {refusal}", QUOTA_CURE) from error
