"""IAM enforcement for the services that we add: MiniStack checks their signatures and leaves the policies to us."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ministack import app
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


def passed_roles(body: Mapping[str, Any]) -> list[str]:
    return [str(body[member]) for member in ("RoleArn", "ExecutionRoleArn") if body.get(member)]


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
        raise AccessDenied(
            f"User: {who} is not authorized to perform: {action} on resource: {resource_arn}"
            if who
            else str(getattr(denied, "message", denied))
        )
