"""IAM enforcement for the services that we add: MiniStack checks their signatures and leaves the policies to us.

And for what a service does under a role, without a request of its own: there MiniStack looks at no policy at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ministack import app
from ministack.core import iam_evaluator
from ministack.core.iam_evaluator import enforce

_ACCESS_KEY = re.compile(r"Credential=([^/]+)/")

# Member of a request -> resource type in the ARN; the first one present names what the action is on.
_RESOURCE_TYPES = {
    "TrainingJobName": "training-job",
    "HyperParameterTuningJobName": "hyper-parameter-tuning-job",
    "EndpointName": "endpoint",
    "EndpointConfigName": "endpoint-config",
    "ModelName": "model",
}


@dataclass
class AccessDenied(Exception):
    """`status` depends on the protocol of the service."""

    message: str


def sagemaker_resource_arn(operation: str, body: Mapping[str, Any], region: str, account: str) -> str:
    """The ARN that IAM compares with the policies of the caller; '*' for actions on no single resource."""
    if "ResourceArn" in body:
        return str(body["ResourceArn"])
    if operation.startswith("List"):
        return "*"
    for member, kind in _RESOURCE_TYPES.items():
        if member in body:
            return f"arn:aws:sagemaker:{region}:{account}:{kind}/{str(body[member]).lower()}"
    return "*"


class Requirement(NamedTuple):
    """What a policy of the caller must allow."""

    action: str
    resource_arn: str
    context: dict[str, Any] | None = None


def sagemaker_requirements(operation: str, body: Mapping[str, Any], region: str, account: str) -> Iterator[Requirement]:
    """The operation itself; the tags and the roles that it is given are further actions of the same caller."""
    arn = sagemaker_resource_arn(operation, body, region, account)
    yield Requirement(f"sagemaker:{operation}", arn)
    if operation.startswith("Create") and body.get("Tags"):
        yield Requirement("sagemaker:AddTags", arn)
    for member in ("RoleArn", "ExecutionRoleArn"):
        if body.get(member):
            yield Requirement("iam:PassRole", str(body[member]), {"iam:PassedToService": "sagemaker.amazonaws.com"})


def authorize(
    headers: Mapping[str, str], action: str, resource_arn: str, region: str, context: dict[str, Any] | None = None
) -> None:
    """Raises AccessDenied unless the caller's policies allow the action. Does nothing without AUTH=true."""
    if not app.AUTH:
        return
    signed = _ACCESS_KEY.search(headers.get("authorization", ""))
    denied = enforce(
        signed[1] if signed else "",
        action,
        action.partition(":")[0],
        region,
        resource_arn=resource_arn,
        service_context=context,
    )
    if denied:
        who = getattr(denied, "principal_arn", None)
        raise AccessDenied(_message(who, action, resource_arn) if who else str(getattr(denied, "message", denied)))


def authorize_role(role_arn: str, session: str, required: Requirement, region: str) -> None:
    """Raises AccessDenied unless the policies of the role allow it. Does nothing without AUTH=true."""
    if not app.AUTH:
        return
    account, role = role_arn.split(":")[4], role_arn.rpartition("/")[2]
    who = f"arn:aws:sts::{account}:assumed-role/{role}/{session}"
    asked = iam_evaluator.EvalContext(
        principal_arn=who,
        principal_type="AssumedRole",
        principal_account=account,
        action=required.action,
        resource_arn=required.resource_arn,
        region=region,
        service_context={key.lower(): value for key, value in (required.context or {}).items()},
    )
    result = iam_evaluator.evaluate(asked, iam_evaluator._gather_role_policies(role, account))
    if result.decision != "Allow":
        raise AccessDenied(_message(who, required.action, required.resource_arn))


def _message(who: str, action: str, resource_arn: str) -> str:
    return f"User: {who} is not authorized to perform: {action} on resource: {resource_arn}"
