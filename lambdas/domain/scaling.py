"""The requests that let an asynchronous endpoint sleep and wake it.

https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-autoscale.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VARIANT = "shared"
SCALE_IN_COOLDOWN_SECONDS = 600  # between two removals; how long it idles before the first is AWS's 15 minutes
BACKLOG_PER_INSTANCE = 5.0


@dataclass(frozen=True)
class Scaling:
    """Of one endpoint, between zero and max_instances."""

    endpoint_name: str
    max_instances: int

    def target(self) -> dict[str, Any]:
        return {**scalable(self.endpoint_name), "MinCapacity": 0, "MaxCapacity": self.max_instances}

    def backlog_policy(self) -> dict[str, Any]:
        """Follows the backlog for each instance, which counts running work too. While there is any work, it reads at
        least the target: nothing is removed until the scaling service's own alarm has seen no work for 15 minutes.

        The bare metric of AWS's example is below the target in all light load. So an endpoint that draws every ten
        minutes is put to sleep at each datapoint without work, and of four instances three are removed while all draw:
        SageMaker is not documented to spare the busy ones. tests/unit/test_scaling_policy.py shows both.
        """
        queries = [
            self._measured("backlog", "ApproximateBacklogSize"),  # there is one without instances too, unlike a share
            self._measured("share", "ApproximateBacklogSizePerInstance"),
            {"Id": "least", "Expression": f"IF(backlog > 0, {BACKLOG_PER_INSTANCE}, 0)", "ReturnData": False},
            {"Id": "followed", "Expression": "IF(share > least, share, least)", "ReturnData": True},
        ]
        return {
            **scalable(self.endpoint_name),
            "PolicyName": f"{self.endpoint_name}-backlog",
            "PolicyType": "TargetTrackingScaling",
            "TargetTrackingScalingPolicyConfiguration": {
                "TargetValue": BACKLOG_PER_INSTANCE,
                "CustomizedMetricSpecification": {"Metrics": queries},
                "ScaleInCooldown": SCALE_IN_COOLDOWN_SECONDS,
                "ScaleOutCooldown": 60,
            },
        }

    def _measured(self, query_id: str, metric_name: str) -> dict[str, Any]:
        metric = {
            "Namespace": "AWS/SageMaker",
            "MetricName": metric_name,
            "Dimensions": [{"Name": "EndpointName", "Value": self.endpoint_name}],
        }
        return {"Id": query_id, "MetricStat": {"Metric": metric, "Stat": "Average"}, "ReturnData": False}

    def wake_policy(self) -> dict[str, Any]:
        """Target tracking has no value at zero instances: this one takes the first step."""
        step = {"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}
        return {
            **scalable(self.endpoint_name),
            "PolicyName": f"{self.endpoint_name}-wake",
            "PolicyType": "StepScaling",
            "StepScalingPolicyConfiguration": {
                "AdjustmentType": "ExactCapacity",  # one, however long the alarm stays on
                "MetricAggregationType": "Average",
                "Cooldown": 300,
                "StepAdjustments": [step],
            },
        }

    def wake_alarm(self, policy_arn: str) -> dict[str, Any]:
        return {
            "AlarmName": wake_alarm_name(self.endpoint_name),
            "AlarmDescription": "Requests wait and no instance runs.",
            "AlarmActions": [policy_arn],
            "Namespace": "AWS/SageMaker",
            "MetricName": "HasBacklogWithoutCapacity",
            "Dimensions": [{"Name": "EndpointName", "Value": self.endpoint_name}],
            "Statistic": "Average",
            "Period": 60,
            "EvaluationPeriods": 2,
            "DatapointsToAlarm": 2,
            "Threshold": 1,
            "ComparisonOperator": "GreaterThanOrEqualToThreshold",
            "TreatMissingData": "missing",
        }


def scalable(endpoint_name: str) -> dict[str, Any]:
    """What identifies the number of its instances to the scaling service."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint_name}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def wake_alarm_name(endpoint_name: str) -> str:
    return f"{endpoint_name}-wake"
