"""Application Auto Scaling of endpoint variants: validated, recorded, and scaled to zero and back for real.

Of the policies only their presence counts: there are no metrics here. An idle time stands for the scale-in alarm, the
age of the oldest waiting request for the HasBacklogWithoutCapacity alarm of a step scaling policy.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from dreamdrop.local.sagemaker.endpoints import Endpoints
from dreamdrop.local.sagemaker.errors import SageMakerError, invalid
from dreamdrop.local.sagemaker.platform import Platform
from dreamdrop.local.sagemaker.store import Record, RecordStore
from dreamdrop.local.sagemaker.validation import check_request

logger = logging.getLogger(__name__)

SERVICE = "application-autoscaling"
DIMENSION = "sagemaker:variant:DesiredInstanceCount"
_RESOURCE = re.compile(r"endpoint/(?P<endpoint>[^/]+)/variant/(?P<variant>[^/]+)")
_TICK_SECONDS = 0.2


class AutoScaling:
    def __init__(self, platform: Platform, endpoints: Endpoints) -> None:
        self._platform = platform
        self._endpoints = endpoints
        self._targets = RecordStore(platform.work / "records" / "scalable-targets")
        self._policies = RecordStore(platform.work / "records" / "scaling-policies")
        self._operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "RegisterScalableTarget": self._register,
            "DescribeScalableTargets": self._describe_targets,
            "DeregisterScalableTarget": self._deregister,
            "PutScalingPolicy": self._put_policy,
            "DescribeScalingPolicies": self._describe_policies,
            "DeleteScalingPolicy": self._delete_policy,
        }
        self.thread = threading.Thread(target=self._run, name="autoscaling", daemon=True)
        self.thread.start()

    @property
    def operations(self) -> frozenset[str]:
        return frozenset(self._operations)

    def call(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """An operation of the Application Auto Scaling API. Raises SageMakerError."""
        if operation not in self._operations:
            raise SageMakerError("UnknownOperationException", f"{operation} is not available in the local cloud.")
        check_request(SERVICE, operation, body)
        if body["ServiceNamespace"] != "sagemaker" or body.get("ScalableDimension", DIMENSION) != DIMENSION:
            raise invalid(f"The local cloud scales the namespace sagemaker with the dimension {DIMENSION} only.")
        return self._operations[operation](body)

    def check_update(self, endpoint: str, config_name: str) -> None:
        """Raises SageMakerError for an update that changes the instances of what is scaled, as SageMaker does.

        https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-scaling-update.html
        """
        controller = self._endpoints.controller(endpoint)
        if controller is None:
            return
        before = controller.target.deployment["Config"]["ProductionVariants"][0]
        after = self._endpoints.config(config_name)["ProductionVariants"][0]
        same = all(before.get(member) == after.get(member) for member in ("VariantName", "InstanceType"))
        scaled = self._targets.get(_key(f"endpoint/{endpoint}/variant/{before['VariantName']}"))
        if scaled is not None and not same:
            raise invalid(
                f'The variant(s) "[{before["VariantName"]}]" must be deregistered as scalable target with AWS Auto '
                "Scaling before they can be removed or have their instance type updated."
            )

    def forget(self, endpoint: str) -> None:
        """A deleted endpoint takes its targets and policies with it."""
        for store in (self._targets, self._policies):
            for record in store.all():
                if _endpoint_of(record["ResourceId"]) == endpoint:
                    store.delete(record["Local"]["Key"])

    def _register(self, body: dict[str, Any]) -> dict[str, Any]:
        resource = body["ResourceId"]
        self._check_resource(resource)
        key = _key(resource)
        with self._targets.transaction():
            known = self._targets.get(key) or {}
            record = {**known, **body}
            low, high = record.get("MinCapacity"), record.get("MaxCapacity")
            if low is None or high is None:
                raise invalid("MinCapacity and MaxCapacity are needed to register a scalable target.")
            if not 0 <= low <= high:
                raise invalid(f"MinCapacity {low} and MaxCapacity {high} must be ordered and not negative.")
            arn = known.get("ScalableTargetARN") or self._arn(f"scalable-target/{uuid.uuid4().hex}")
            record |= {"ScalableDimension": DIMENSION, "ScalableTargetARN": arn, "Local": {"Key": key}}
            record.setdefault("RoleARN", f"arn:aws:iam::{self._platform.account}:role/aws-service-role")
            record.setdefault("CreationTime", time.time())
            if not self._targets.add(key, record):
                self._targets.update(key, **record)
        return {"ScalableTargetARN": arn}

    def _describe_targets(self, body: dict[str, Any]) -> dict[str, Any]:
        wanted = body.get("ResourceIds")
        found = [t for t in self._targets.all() if not wanted or t["ResourceId"] in wanted]
        return {"ScalableTargets": [_public(target) for target in found]}

    def _deregister(self, body: dict[str, Any]) -> dict[str, Any]:
        if self._targets.delete(_key(body["ResourceId"])) is None:
            raise _no_object("scalable target", body["ResourceId"])
        for policy in self._policies.all():
            if policy["ResourceId"] == body["ResourceId"]:
                self._policies.delete(policy["Local"]["Key"])
        return {}

    def _put_policy(self, body: dict[str, Any]) -> dict[str, Any]:
        resource, name = body["ResourceId"], body["PolicyName"]
        if self._targets.get(_key(resource)) is None:
            raise _no_object("scalable target", resource)
        kind = body.get("PolicyType", "StepScaling")
        if f"{kind}PolicyConfiguration" not in body:
            raise invalid(f"A policy of type {kind} needs a {kind}PolicyConfiguration.")
        key = _key(resource, name)
        arn = (
            f"arn:aws:autoscaling:{self._platform.region}:{self._platform.account}:scalingPolicy:{uuid.uuid4()}"
            f":resource/sagemaker/{resource}:policyName/{name}"
        )
        known = self._policies.delete(key)
        record = {
            **body,
            "PolicyType": kind,
            "PolicyARN": known["PolicyARN"] if known else arn,
            "CreationTime": known["CreationTime"] if known else time.time(),
            "Alarms": [],
            "Local": {"Key": key},
        }
        self._policies.add(key, record)
        return {"PolicyARN": record["PolicyARN"], "Alarms": []}

    def _describe_policies(self, body: dict[str, Any]) -> dict[str, Any]:
        names, resource = body.get("PolicyNames"), body.get("ResourceId")
        found = [
            _public(policy)
            for policy in self._policies.all()
            if (not names or policy["PolicyName"] in names) and resource in (None, policy["ResourceId"])
        ]
        return {"ScalingPolicies": found}

    def _delete_policy(self, body: dict[str, Any]) -> dict[str, Any]:
        if self._policies.delete(_key(body["ResourceId"], body["PolicyName"])) is None:
            raise _no_object("scaling policy", body["PolicyName"])
        return {}

    def _check_resource(self, resource: str) -> None:
        found = _RESOURCE.fullmatch(resource)
        controller = self._endpoints.controller(found["endpoint"]) if found else None
        if found is None or controller is None:
            raise invalid(f"{resource} is not endpoint/<endpoint>/variant/<variant> of an existing endpoint.")
        variant = controller.target.deployment["Config"]["ProductionVariants"][0]["VariantName"]
        if found["variant"] != variant:
            raise invalid(f"The endpoint {found['endpoint']} has no variant {found['variant']}.")

    def _arn(self, resource: str) -> str:
        return f"arn:aws:application-autoscaling:{self._platform.region}:{self._platform.account}:{resource}"

    def _run(self) -> None:
        while not self._platform.closing.wait(_TICK_SECONDS):
            for target in self._targets.all():
                try:
                    self._adjust(target)
                except SageMakerError as error:  # the endpoint is being updated: the next tick sees it again
                    logger.debug("%s was not scaled: %s", target["ResourceId"], error)

    def _adjust(self, target: Record) -> None:
        endpoint = _endpoint_of(target["ResourceId"])
        controller = self._endpoints.controller(endpoint)
        if controller is None:
            return
        settings = self._platform.settings
        count = controller.target.instances
        if count < min(target["MinCapacity"], 1):
            self._endpoints.scale(endpoint, 1)
        elif count and not target["MinCapacity"] and settings.idle_seconds is not None:
            if controller.queue.idle_seconds() >= settings.idle_seconds:
                self._endpoints.scale(endpoint, 0)
        elif not count and target["MaxCapacity"] and self._has_step_policy(target["ResourceId"]):
            age = controller.queue.age_of_oldest()
            if age is not None and age >= settings.wake_after_seconds:
                self._endpoints.scale(endpoint, 1)

    def _has_step_policy(self, resource: str) -> bool:
        return any(p["ResourceId"] == resource and p["PolicyType"] == "StepScaling" for p in self._policies.all())


def _key(*parts: str) -> str:
    """A file name for what may hold slashes."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _endpoint_of(resource: str) -> str:
    return resource.split("/")[1]


def _public(record: Record) -> Record:
    return {name: value for name, value in record.items() if name not in ("Local", "Tags")}


def _no_object(kind: str, name: str) -> SageMakerError:
    return SageMakerError("ObjectNotFoundException", f"No {kind} found for {name}.")
