"""SageMaker endpoints: made, changed, woken and asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import ClientError

from contracts.errors import HostingFailed
from contracts.generation import INVOCATION_TIMEOUT_SECONDS, REQUEST_TTL_SECONDS
from lambdas.adapters.clients import client, error_code, is_gone, unless_gone
from lambdas.domain.endpoints import BASE_MODEL_CHECKSUM, EndpointPlan
from lambdas.domain.scaling import VARIANT, Scaling, scalable, wake_alarm_name

QUOTA_CURE = (
    "Ask for a larger quota in AWS's Service Quotas (service Amazon SageMaker, quota '<instance type> for endpoint "
    "usage'), or name another inference_instance_type in the settings; then upload any file of the dataset, or ask for "
    "the pictures, again."
)


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
    """Raises HostingFailed when a quota does not allow it."""
    _make_config(plan)
    with _quota_told():
        _unless_exists(client("sagemaker").create_endpoint, plan.endpoint())


def update(plan: EndpointPlan, scaling: Scaling) -> bool:
    """Blue/green: the old fleet serves until the new one is in service, and what waits goes on waiting.

    Its scaling is taken off first, for the length of the update: SageMaker refuses to change the instance type of what
    is scaled, and nobody else is to change the number of instances meanwhile. False if another run is at it already.
    https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-scaling-update.html

    An update that is refused leaves the endpoint scaled as it was. Raises HostingFailed when a quota does not allow it:
    for its length an update needs the instances of both fleets.
    """
    _make_config(plan)
    unless_gone("cloudwatch", "delete_alarms", AlarmNames=[wake_alarm_name(plan.endpoint_name)])
    unless_gone("application-autoscaling", "deregister_scalable_target", **scalable(plan.endpoint_name))
    try:
        with _quota_told():
            return _unless_changing("update_endpoint", **plan.endpoint())
    except (ClientError, HostingFailed):
        let_it_sleep(scaling)
        raise


def delete(endpoint_name: str) -> None:
    """Unless another run is at it already."""
    _unless_changing("delete_endpoint", EndpointName=endpoint_name)


def is_run_by(endpoint: dict[str, Any], role_arn: str) -> bool:
    """Whether a described endpoint is this deployment's: another one's prefix may begin like ours."""
    return bool(_model_of(endpoint).get("ExecutionRoleArn") == role_arn)


def has_base_model(endpoint: dict[str, Any], checksum: str) -> bool:
    """Whether a described endpoint draws with those very weights."""
    container = _model_of(endpoint).get("PrimaryContainer", {})
    return bool(container.get("Environment", {}).get(BASE_MODEL_CHECKSUM) == checksum)


def _model_of(endpoint: dict[str, Any]) -> dict[str, Any]:
    """Nothing when it is gone."""
    try:  # a model and its endpoint configuration have the same name
        model: dict[str, Any] = client("sagemaker").describe_model(ModelName=endpoint["EndpointConfigName"])
    except ClientError as error:
        if error_code(error) == "ValidationException" and "Could not find" in str(error):
            return {}
        raise
    return model


def scales(endpoint_name: str) -> bool:
    """False from its creation, and during an update, until `let_it_sleep` has done all: the alarm comes last."""
    found = client("cloudwatch").describe_alarms(AlarmNames=[wake_alarm_name(endpoint_name)])
    return bool(found["MetricAlarms"])


def let_it_sleep(scaling: Scaling, *, at_once: bool = False) -> None:
    """Scaling between zero and the limit; safe to repeat.

    `at_once`: it is sent to sleep too, which loses whatever it works on: only for one that nobody has asked yet. If
    something else changes it just then, the news of that change's end lead here again, so the rest is left to then.
    """
    service = client("application-autoscaling")
    service.register_scalable_target(**scaling.target())
    if at_once and not send_to_sleep(scaling.endpoint_name):
        return
    service.put_scaling_policy(**scaling.backlog_policy())
    wake_policy = service.put_scaling_policy(**scaling.wake_policy())
    for alarm in (*scaling.watching_alarms(), scaling.wake_alarm(wake_policy["PolicyARN"])):
        client("cloudwatch").put_metric_alarm(**alarm)


def send_to_sleep(endpoint_name: str) -> bool:
    """False if something else changes it."""
    return _set_instances(endpoint_name, 0)


def wake(endpoint_name: str) -> bool:
    """Asks for one instance if there is none. False if it was awake, or something else changes it."""
    endpoint = describe(endpoint_name)
    variants = (endpoint or {}).get("ProductionVariants", [])
    asleep = [v for v in variants if v.get("DesiredInstanceCount") == 0]
    if not asleep or endpoint is None or endpoint["EndpointStatus"] != "InService":
        return False
    return _set_instances(endpoint_name, 1)


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


def is_changing(error: ClientError) -> bool:
    """SageMaker changes an endpoint only when the change before has ended."""
    return error_code(error) == "ValidationException" and "in-progress" in str(error)


def _set_instances(endpoint_name: str, count: int) -> bool:
    return _unless_changing(
        "update_endpoint_weights_and_capacities",
        EndpointName=endpoint_name,
        DesiredWeightsAndCapacities=[{"VariantName": VARIANT, "DesiredInstanceCount": count}],
    )


def _unless_changing(operation: str, **request: Any) -> bool:
    """False if somebody else was first: the endpoint is changing already, or gone."""
    try:
        getattr(client("sagemaker"), operation)(**request)
    except ClientError as error:
        if not is_changing(error) and not is_gone(error):
            raise
        return False
    return True


@contextmanager
def _quota_told() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if error_code(error) != "ResourceLimitExceeded":
            raise
        refusal = error.response["Error"]["Message"]
        raise HostingFailed(f"SageMaker refused the endpoint: {refusal}", QUOTA_CURE) from error


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
