"""What was made at run time, found again and removed: SageMaker's resources, their scaling and their alarms.

Names begin with the deployment's prefix, but so may those of another deployment, whose prefix is a longer one: what is
ours is what runs under our roles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

from lambdas.adapters import hosting
from lambdas.adapters.clients import client, is_gone, unless_gone
from lambdas.domain.endpoints import is_of
from lambdas.domain.scaling import alarm_names, scalable


class StillChanging(Exception):
    """The endpoint cannot be deleted before it has been created or updated; what belonged to it goes a while later."""


def models_of(prefix: str, role_arn: str) -> list[str]:
    """A model and its endpoint configuration have the same name."""
    names = [item["ModelName"] for item in _listed("list_models", "Models", prefix)]
    sagemaker = client("sagemaker")
    return [name for name in names if sagemaker.describe_model(ModelName=name).get("ExecutionRoleArn") == role_arn]


def endpoints_with(configs: set[str], prefix: str) -> list[str]:
    names = [item["EndpointName"] for item in _listed("list_endpoints", "Endpoints", prefix)]
    sagemaker = client("sagemaker")
    return [name for name in names if sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"] in configs]


def running_jobs_of(prefix: str, role_arn: str) -> list[str]:
    listed = _listed("list_training_jobs", "TrainingJobSummaries", prefix, StatusEquals="InProgress")
    names = [item["TrainingJobName"] for item in listed]
    sagemaker = client("sagemaker")
    return [name for name in names if sagemaker.describe_training_job(TrainingJobName=name)["RoleArn"] == role_arn]


def is_running(job: str) -> bool:
    """Also while it is stopping: until it has ended it may write into the bucket."""
    try:
        status = client("sagemaker").describe_training_job(TrainingJobName=job)["TrainingJobStatus"]
    except ClientError as error:
        if not is_gone(error):
            raise
        return False
    return status in ("InProgress", "Stopping")


def stop_job(name: str) -> bool:
    """Unless it has ended. False if there is no such job."""
    try:
        client("sagemaker").stop_training_job(TrainingJobName=name)
    except ClientError as error:
        if is_gone(error):
            return False
        if "training job is in status" not in str(error):
            raise
    return True


def remove_endpoint(name: str) -> None:
    """Its scaling first, while there is something to scale. Raises StillChanging."""
    unless_gone("application-autoscaling", "deregister_scalable_target", **scalable(name))
    for alarm in alarm_names(name):
        unless_gone("cloudwatch", "delete_alarms", AlarmNames=[alarm])
    try:
        unless_gone("sagemaker", "delete_endpoint", EndpointName=name)
    except ClientError as error:
        if hosting.is_changing(error):
            raise StillChanging(name) from error
        raise


def remove_model(name: str) -> None:
    """With its endpoint configuration."""
    unless_gone("sagemaker", "delete_endpoint_config", EndpointConfigName=name)
    unless_gone("sagemaker", "delete_model", ModelName=name)


def remove_with_models(endpoint_name: str) -> bool:
    """An endpoint and every model that it ever had. False if there was no such endpoint any more.

    Safe to repeat. Raises StillChanging.
    """
    exists = hosting.describe(endpoint_name) is not None
    if exists:
        remove_endpoint(endpoint_name)
    names = [item["ModelName"] for item in _listed("list_models", "Models", endpoint_name)]
    for name in names:
        if is_of(endpoint_name, name):
            remove_model(name)
    return exists


def expect_no_interfaces(security_group: str) -> None:
    """SageMaker removes them some minutes after their endpoint. Raises StillChanging."""
    in_group = {"Name": "group-id", "Values": [security_group]}
    found = client("ec2").describe_network_interfaces(Filters=[in_group])["NetworkInterfaces"]
    if found:
        raise StillChanging(f"network interface {found[0]['NetworkInterfaceId']}")


def _listed(operation: str, key: str, prefix: str, **more: Any) -> Iterator[dict[str, Any]]:
    pages = client("sagemaker").get_paginator(operation).paginate(NameContains=f"{prefix}-", **more)
    for page in pages:
        for item in page[key]:
            name = next(value for field, value in item.items() if field.endswith("Name"))
            if name.startswith(f"{prefix}-"):
                yield item
