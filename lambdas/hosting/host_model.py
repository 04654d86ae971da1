"""HostModel: makes or updates the endpoint that is to draw the version, or waits for it. Called until it is in service;
then the subject's alias moves to the new version and its endpoint, in one conditional write, and the containers are
told."""

from __future__ import annotations

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
from lambdas.domain.endpoints import EndpointPlan, OwnSubject, own_endpoint_name
from lambdas.hosting.planning import plan_endpoint
from lambdas.hosting.resting import let_it_rest
from lambdas.pipeline.state import state

WAITED_FOR = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
MOST_WRITES = 20  # each failed one is another run's success


class HostingRound(VersionPublished):
    """A later round of the loop carries what the round before saw."""

    endpoint_status: str | None = None
    endpoint_changed: bool = False


@state(HostingRound)
def handler(round_: HostingRound) -> VersionHosted:
    env = environment(HostEnvironment)
    bucket = DataBucket(env.data_bucket)
    subjects = Subjects(env.table_name)
    plan = plan_endpoint(env, bucket, round_.request.base_model, _own_subject(round_))
    if round_.endpoint_status is None:
        subjects.enter(round_, "hosting")
        subjects.want_endpoint(round_.subject, plan.endpoint_name)
    changed = round_.endpoint_changed
    if plan.subject and not subjects.may_promote(round_):
        status = "InService"  # of a newer version, which is left as it is
    else:
        status, changed_now = _ensure(env, plan, changed)
        changed = changed or changed_now
    if status == "InService":
        _promote(env, bucket, subjects, round_, plan)
    payload = round_.model_dump(exclude={"endpoint_status", "endpoint_changed"})
    return VersionHosted(**payload, endpoint_name=plan.endpoint_name, endpoint_status=status, endpoint_changed=changed)


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


def _ensure(env: HostEnvironment, plan: EndpointPlan, changed: bool) -> tuple[str, bool]:
    """(status, changed now) after doing the next thing that it needs; `changed`: by this run before.

    Raises HostingFailed.
    """
    name = plan.endpoint_name
    found = hosting.describe(name)
    if found is None:
        logger.info("creating the endpoint", extra={"endpoint": name})
        hosting.create(plan)
        return "Creating", True
    status = str(found["EndpointStatus"])
    if status == "InService":
        outdated = found["EndpointConfigName"] != plan.config_name
        if outdated and not changed:
            logger.info("updating the endpoint", extra={"endpoint": name, "config": plan.config_name})
            return "Updating", hosting.update(plan)
        let_it_rest(env, name)
        if outdated:
            reason = found.get("FailureReason", "the new configuration did not come up")
            raise HostingFailed(f"The endpoint {name} was rolled back: {reason}")
    elif status == "Failed" and not changed:  # left over from an earlier run
        hosting.delete(name)
        return "Deleting", False
    elif status not in WAITED_FOR:
        raise HostingFailed(f"The endpoint {name} is {status}: {found.get('FailureReason', 'no reason')}")
    return status, False
