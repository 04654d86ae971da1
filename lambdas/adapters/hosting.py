"""SageMaker endpoints: made, changed, woken and asked."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError

from contracts.generation import INVOCATION_TIMEOUT_SECONDS, REQUEST_TTL_SECONDS
from lambdas.adapters.clients import client, error_code, unless_gone
from lambdas.domain.endpoints import EndpointPlan
from lambdas.domain.scaling import VARIANT, Scaling, scalable


def describe(endpoint_name: str) -> dict[str, Any] | None:
    """None when there is no such endpoint."""
    try:
        answer: dict[str, Any] = client("sagemaker").describe_endpoint(EndpointName=endpoint_name)
    except ClientError as error:
        if error_code(error) == "ValidationException" and "Could not find" in str(error):
            return None
        raise
    return answer


def create(plan: EndpointPlan) -> None:
    _make_config(plan)
    _unless_exists(client("sagemaker").create_endpoint, plan.endpoint())


def update(plan: EndpointPlan) -> bool:
    """Blue/green: the old fleet serves until the new one is in service, and what waits goes on waiting.

    Its scaling is taken off first, for the length of the update: SageMaker refuses to change the instance type of what
    is scaled, and nobody else is to change the number of instances meanwhile. False if another run is at it already.
    https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-scaling-update.html
    """
    _make_config(plan)
    unless_gone("application-autoscaling", "deregister_scalable_target", **scalable(plan.endpoint_name))
    try:
        client("sagemaker").update_endpoint(**plan.endpoint())
    except ClientError as error:
        if error_code(error) != "ValidationException" or "in-progress" not in str(error):
            raise
        return False
    return True


def delete(endpoint_name: str) -> None:
    client("sagemaker").delete_endpoint(EndpointName=endpoint_name)


def is_run_by(endpoint: dict[str, Any], role_arn: str) -> bool:
    """Whether a described endpoint is this deployment's: another one's prefix may begin like ours."""
    try:  # a model and its endpoint configuration have the same name
        model = client("sagemaker").describe_model(ModelName=endpoint["EndpointConfigName"])
    except ClientError as error:
        if error_code(error) == "ValidationException" and "Could not find" in str(error):
            return False
        raise
    return bool(model["ExecutionRoleArn"] == role_arn)


def scales(endpoint_name: str) -> bool:
    """False from its creation, and during an update, until `let_it_sleep`."""
    where = scalable(endpoint_name)
    found = client("application-autoscaling").describe_scalable_targets(
        ServiceNamespace=where["ServiceNamespace"], ResourceIds=[where["ResourceId"]]
    )
    return bool(found["ScalableTargets"])


def let_it_sleep(scaling: Scaling) -> None:
    """Scaling between zero and the limit; safe to repeat."""
    service = client("application-autoscaling")
    service.register_scalable_target(**scaling.target())
    service.put_scaling_policy(**scaling.backlog_policy())
    wake_policy = service.put_scaling_policy(**scaling.wake_policy())
    client("cloudwatch").put_metric_alarm(**scaling.wake_alarm(wake_policy["PolicyARN"]))


def send_to_sleep(endpoint_name: str) -> None:
    """At once. Whatever it works on is lost: only for an endpoint that nobody has asked yet."""
    _set_instances(endpoint_name, 0)


def wake(endpoint_name: str) -> bool:
    """Asks for one instance if there is none. False if it was awake."""
    endpoint = describe(endpoint_name)
    variants = (endpoint or {}).get("ProductionVariants", [])
    asleep = [v for v in variants if v.get("DesiredInstanceCount") == 0]
    if not asleep or endpoint is None or endpoint["EndpointStatus"] != "InService":
        return False
    _set_instances(endpoint_name, 1)
    return True


def submit(endpoint_name: str, generation_id: str, body: str, accept: str) -> None:
    """The body travels inline: at most MAX_PAYLOAD_BYTES."""
    client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=endpoint_name,
        InferenceId=generation_id,
        ContentType="application/json",
        Accept=accept,
        Body=body,
        RequestTTLSeconds=REQUEST_TTL_SECONDS,
        InvocationTimeoutSeconds=INVOCATION_TIMEOUT_SECONDS,
    )


def _set_instances(endpoint_name: str, count: int) -> None:
    client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName=endpoint_name,
        DesiredWeightsAndCapacities=[{"VariantName": VARIANT, "DesiredInstanceCount": count}],
    )


def _make_config(plan: EndpointPlan) -> None:
    _unless_exists(client("sagemaker").create_model, plan.model())
    _unless_exists(client("sagemaker").create_endpoint_config, plan.config())


def _unless_exists(operation: Any, request: dict[str, Any]) -> None:
    """The names hold a digest of the content, so what exists under a name is what would be made."""
    try:
        operation(**request)
    except ClientError as error:
        exists = error_code(error) == "ValidationException" and "already exist" in str(error)
        if not exists and error_code(error) != "ResourceInUse":
            raise
