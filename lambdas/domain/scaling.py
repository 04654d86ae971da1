"""The requests that let an asynchronous endpoint sleep and wake it.

https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-autoscale.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

VARIANT = "shared"
SCALE_IN_COOLDOWN_SECONDS = 600  # between two removals; how long it idles before the first is AWS's 15 minutes
BACKLOG_PER_INSTANCE = 5.0
ALARM_PERIOD_SECONDS = 300
LONGEST_WAIT_SECONDS = 1800  # an endpoint that wakes needs a third of it
LONGEST_IDLE_SECONDS = 3600  # one that nobody asks is to sleep after a third of it


@dataclass(frozen=True)
class Scaling:
    """Of one endpoint, between zero and max_instances; who is to be told when it does not."""

    endpoint_name: str
    max_instances: int
    alarm_topic_arn: str

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
            "Dimensions": self._dimensions,
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
            "Dimensions": self._dimensions,
            "Statistic": "Average",
            "Period": 60,
            "EvaluationPeriods": 2,
            "DatapointsToAlarm": 2,
            "Threshold": 1,
            "ComparisonOperator": "GreaterThanOrEqualToThreshold",
            "TreatMissingData": "missing",
        }

    def watching_alarms(self) -> list[dict[str, Any]]:
        """What a person should hear of: made with the endpoint, since an alarm cannot search for endpoints."""
        return [self._waiting_alarm(), self._awake_alarm()]

    def _waiting_alarm(self) -> dict[str, Any]:
        return {
            **self._watching("waiting", "A request for pictures waits for half an hour or more.", "PicturesWaiting"),
            "Namespace": "AWS/SageMaker",
            "MetricName": "ApproximateAgeOfOldestRequest",
            "Dimensions": self._dimensions,
            "Statistic": "Maximum",
            "Period": ALARM_PERIOD_SECONDS,
            "EvaluationPeriods": 1,
            "Threshold": LONGEST_WAIT_SECONDS,
        }

    def _awake_alarm(self) -> dict[str, Any]:
        """An instance tells how busy its processors are, every minute while there is one, and nothing without one.

        https://docs.aws.amazon.com/sagemaker/latest/dg/monitoring-cloudwatch.html
        """
        processors = {
            "Namespace": "/aws/sagemaker/Endpoints",
            "MetricName": "CPUUtilization",
            "Dimensions": [*self._dimensions, {"Name": "VariantName", "Value": VARIANT}],
        }
        backlog = {"Namespace": "AWS/SageMaker", "MetricName": "ApproximateBacklogSize", "Dimensions": self._dimensions}
        return {
            **self._watching("awake", "An instance has been there for an hour without work.", "EndpointAwake"),
            "Metrics": [
                _hidden("told", processors, "SampleCount"),
                _hidden("backlog", backlog, "Maximum"),
                {"Id": "idle", "Expression": "IF(told > 0 AND FILL(backlog, 0) == 0, 1, 0)", "ReturnData": True},
            ],
            "EvaluationPeriods": LONGEST_IDLE_SECONDS // ALARM_PERIOD_SECONDS,
            "Threshold": 1,
        }

    def _watching(self, kind: str, description: str, section: str) -> dict[str, Any]:
        return {
            "AlarmName": f"{self.endpoint_name}-{kind}",
            "AlarmDescription": f"{description} What to do: docs/operations.md, {section}.",
            "AlarmActions": [self.alarm_topic_arn],
            "ComparisonOperator": "GreaterThanOrEqualToThreshold",
            "TreatMissingData": "notBreaching",
        }

    @property
    def _dimensions(self) -> list[dict[str, str]]:
        return [{"Name": "EndpointName", "Value": self.endpoint_name}]


def _hidden(query_id: str, metric: dict[str, Any], statistic: str) -> dict[str, Any]:
    stat = {"Metric": metric, "Period": ALARM_PERIOD_SECONDS, "Stat": statistic}
    return {"Id": query_id, "MetricStat": stat, "ReturnData": False}


def scalable(endpoint_name: str) -> dict[str, Any]:
    """What identifies the number of its instances to the scaling service."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint_name}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def wake_alarm_name(endpoint_name: str) -> str:
    return f"{endpoint_name}-wake"


def alarm_names(endpoint_name: str) -> list[str]:
    """Of all that were made with it."""
    return [wake_alarm_name(endpoint_name), f"{endpoint_name}-waiting", f"{endpoint_name}-awake"]
