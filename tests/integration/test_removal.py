"""The end of the stack, against moto: what was made at run time goes, and what is another deployment's stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lambdas.adapters import hosting, leftovers
from lambdas.adapters.clients import client
from lambdas.domain.endpoints import EndpointPlan
from lambdas.domain.scaling import Scaling, alarm_names, scalable
from lambdas.hosting import remove_endpoints
from tests.cloudformation import CloudFormation, answering
from tests.integration.account import ACCOUNT, Account, Context

OUR_ROLE = f"arn:aws:iam::{ACCOUNT}:role/ours"
OTHER_ROLE = f"arn:aws:iam::{ACCOUNT}:role/others"
TRAINING_ROLE = f"arn:aws:iam::{ACCOUNT}:role/training"


@pytest.fixture
def cloudformation() -> Iterator[CloudFormation]:
    with answering() as answered:
        yield answered


@pytest.fixture(autouse=True)
def _variables(monkeypatch: pytest.MonkeyPatch, account: Account) -> None:
    monkeypatch.setenv("RESOURCE_PREFIX", "dream")
    monkeypatch.setenv("STATE_MACHINE_ARN", account.state_machine_arn)
    monkeypatch.setenv("IN_FLIGHT_SECONDS", "7")
    monkeypatch.setenv("TRAINING_ROLE_ARN", TRAINING_ROLE)
    monkeypatch.setenv("INFERENCE_ROLE_ARN", OUR_ROLE)


def plan(prefix: str, base_model: str, role_arn: str) -> EndpointPlan:
    return EndpointPlan(
        prefix=prefix,
        base_model=base_model,
        base_model_checksum="0" * 64,
        bucket="photos",
        image="image",
        role_arn=role_arn,
        instance_type="ml.g4dn.xlarge",
        success_topic_arn="arn:aws:sns:us-east-1:123456789012:drawn",
        error_topic_arn="arn:aws:sns:us-east-1:123456789012:not-drawn",
    )


def host(made: EndpointPlan) -> None:
    hosting.create(made)
    hosting.let_it_sleep(Scaling(made.endpoint_name, 1, "arn:aws:sns:us-east-1:123456789012:alarms"))


def train(name: str, role_arn: str) -> None:
    client("sagemaker").create_training_job(
        TrainingJobName=name,
        RoleArn=role_arn,
        AlgorithmSpecification={"TrainingImage": "image", "TrainingInputMode": "File"},
        OutputDataConfig={"S3OutputPath": "s3://photos/models/"},
        ResourceConfig={"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )


def event(kind: str, url: str) -> dict[str, Any]:
    return {
        "RequestType": kind,
        "ResponseURL": url,
        "StackId": "stack",
        "RequestId": "request",
        "LogicalResourceId": "RuntimeResources",
    }


def left(kind: str, key: str, name: str) -> set[str]:
    return {item[name] for item in getattr(client("sagemaker"), f"list_{kind}")()[key]}


def test_the_end_of_the_stack_removes_all_of_ours_and_nothing_else(
    cloudformation: CloudFormation,
) -> None:
    url, answers = cloudformation
    ours = [plan("dream", name, OUR_ROLE) for name in ("toyworld", "sd-2.1")]
    neighbour = plan("dream-b", "toyworld", OTHER_ROLE)  # whose names begin like ours
    for made in (*ours, neighbour):
        host(made)
    for made in ("Create", "Update"):
        remove_endpoints.handler(event(made, url), Context())  # type: ignore[arg-type]
    assert len(left("endpoints", "Endpoints", "EndpointName")) == 3

    remove_endpoints.handler(event("Delete", url), Context())  # type: ignore[arg-type]
    assert [answer["Status"] for answer in answers] == ["SUCCESS"] * 3
    assert {answer["PhysicalResourceId"] for answer in answers} == {"endpoints"}
    assert left("endpoints", "Endpoints", "EndpointName") == {neighbour.endpoint_name}
    assert left("models", "Models", "ModelName") == {neighbour.config_name}
    assert left("endpoint_configs", "EndpointConfigs", "EndpointConfigName") == {neighbour.config_name}
    targets = client("application-autoscaling").describe_scalable_targets(ServiceNamespace="sagemaker")
    assert [found["ResourceId"] for found in targets["ScalableTargets"]] == [
        scalable(neighbour.endpoint_name)["ResourceId"]
    ]
    alarms = {alarm["AlarmName"] for alarm in client("cloudwatch").describe_alarms()["MetricAlarms"]}
    assert {name for name in alarms if name.startswith("dream-")} == set(alarm_names(neighbour.endpoint_name))

    remove_endpoints.handler(event("Delete", url), Context())  # type: ignore[arg-type]  # safe to repeat
    assert answers[-1]["Status"] == "SUCCESS"


def test_executions_are_stopped_before_what_they_made_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, account: Account, cloudformation: CloudFormation
) -> None:
    url, answers = cloudformation
    for name in ("rex-1", "rex-2"):
        client("stepfunctions").start_execution(stateMachineArn=account.state_machine_arn, name=name, input="{}")
    then: list[Any] = []
    monkeypatch.setattr(remove_endpoints.time, "sleep", then.append)
    monkeypatch.setattr(leftovers, "running_jobs_of", lambda *_: then.append("jobs") or [])
    remove_endpoints.handler(event("Delete", url), Context())  # type: ignore[arg-type]
    assert answers[-1]["Status"] == "SUCCESS"
    assert [execution["status"] for execution in account.executions()] == ["ABORTED"] * 2
    assert then == [7, "jobs"], "a step that was going on has its time"
    remove_endpoints.handler(event("Delete", url), Context())  # type: ignore[arg-type]
    assert then[2:] == ["jobs"]


def test_running_training_jobs_are_stopped(monkeypatch: pytest.MonkeyPatch, cloudformation: CloudFormation) -> None:
    url, _ = cloudformation
    stopped: list[str] = []
    monkeypatch.setattr(leftovers, "stop_job", stopped.append)
    monkeypatch.setattr(leftovers, "running_jobs_of", lambda prefix, role: [f"{prefix}-rex", role])
    remove_endpoints.handler(event("Delete", url), Context())  # type: ignore[arg-type]
    assert stopped == ["dream-rex", TRAINING_ROLE]


def test_only_running_jobs_under_our_role_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    train("dream-rex-1", TRAINING_ROLE)
    train("dream-b-rex-1", OTHER_ROLE)
    assert leftovers.running_jobs_of("dream", TRAINING_ROLE) == []  # moto's jobs end at once
    real = leftovers._listed

    def as_if_running(*arguments: str, **_status: str) -> Iterator[dict[str, Any]]:
        return real(*arguments)

    monkeypatch.setattr(leftovers, "_listed", as_if_running)
    assert leftovers.running_jobs_of("dream", TRAINING_ROLE) == ["dream-rex-1"]


def test_the_network_goes_after_its_last_interface(
    monkeypatch: pytest.MonkeyPatch, cloudformation: CloudFormation
) -> None:
    url, answers = cloudformation
    ec2 = client("ec2")
    network = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=network, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(GroupName="containers", Description="d", VpcId=network)["GroupId"]
    others = ec2.create_security_group(GroupName="others", Description="d", VpcId=network)["GroupId"]
    for one in (group, others):
        made = ec2.create_network_interface(SubnetId=subnet, Groups=[one])["NetworkInterface"]
        if one == group:
            ours = made["NetworkInterfaceId"]
    monkeypatch.setenv("SECURITY_GROUP_ID", group)
    context = Context()
    waited: list[float] = []

    def sagemaker_removes_it(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            ec2.delete_network_interface(NetworkInterfaceId=ours)

    monkeypatch.setattr(remove_endpoints.time, "sleep", sagemaker_removes_it)
    remove_endpoints.handler(event("Delete", url), context)  # type: ignore[arg-type]
    assert len(waited) == 2
    assert answers[-1]["Status"] == "SUCCESS"

    ec2.create_network_interface(SubnetId=subnet, Groups=[group])
    context.remaining_ms = 1
    remove_endpoints.handler(event("Delete", url), context)  # type: ignore[arg-type]
    assert answers[-1]["Status"] == "FAILED"
    assert "network interface eni-" in answers[-1]["Reason"]


def test_an_endpoint_that_is_still_changing_is_waited_for_and_then_reported(
    monkeypatch: pytest.MonkeyPatch, cloudformation: CloudFormation
) -> None:
    url, answers = cloudformation
    host(plan("dream", "toyworld", OUR_ROLE))
    context = Context()
    monkeypatch.setattr(remove_endpoints, "PAUSE_SECONDS", 0)
    tries: list[str] = []

    def changing(name: str) -> None:
        tries.append(name)
        if len(tries) == 3:
            context.remaining_ms = 1
        raise leftovers.StillChanging(name)

    monkeypatch.setattr(leftovers, "remove_endpoint", changing)
    remove_endpoints.handler(event("Delete", url), context)  # type: ignore[arg-type]
    assert len(tries) == 3
    assert answers[-1]["Status"] == "FAILED"
    assert "dream-toyworld" in answers[-1]["Reason"]
    assert "again" in answers[-1]["Reason"]
    assert left("models", "Models", "ModelName")  # found again the next time
