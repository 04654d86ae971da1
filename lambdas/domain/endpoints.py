"""The requests that make a shared asynchronous endpoint, and the policies that let it sleep.

https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-create-invoke.html and async-inference-autoscale.html
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from contracts.generation import CONCURRENT_INVOCATIONS
from contracts.storage import INFERENCE_FAILURE, INFERENCE_OUTPUT, base_model_prefix

VARIANT = "shared"
# Driver 550, CUDA 12.4, which runs the CUDA 12.8 libraries of the image; hosts are given an older one by default.
INFERENCE_AMI = "al2-ami-sagemaker-inference-gpu-3-1"
SCALE_IN_COOLDOWN_SECONDS = 600  # between two removals; how long it idles before the first is AWS's 15 minutes
BACKLOG_PER_INSTANCE = 5.0


@dataclass(frozen=True, kw_only=True)
class EndpointPlan:
    """One endpoint a base model. The configuration's name holds a digest: a changed plan is a new configuration."""

    prefix: str
    base_model: str
    base_model_checksum: str
    bucket: str
    image: str
    role_arn: str
    instance_type: str
    max_instances: int
    success_topic_arn: str
    error_topic_arn: str
    blocked_words: tuple[str, ...] = ()
    watermark: str = ""
    subnet_ids: tuple[str, ...] = ()
    security_group_ids: tuple[str, ...] = ()
    output_key_arn: str = ""
    volume_key_arn: str = ""
    concurrent_invocations: int = CONCURRENT_INVOCATIONS

    @property
    def endpoint_name(self) -> str:
        return f"{self.prefix}-{self.base_model.replace('.', '-')}"

    @property
    def config_name(self) -> str:
        content = json.dumps(sorted(vars(self).items()))
        return f"{self.endpoint_name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"

    def model(self) -> dict[str, Any]:
        source = {
            "S3Uri": f"s3://{self.bucket}/{base_model_prefix(self.base_model)}",
            "S3DataType": "S3Prefix",
            "CompressionType": "None",
        }
        return {
            "ModelName": self.config_name,
            "ExecutionRoleArn": self.role_arn,
            **({"VpcConfig": self._network()} if self.subnet_ids else {}),
            "PrimaryContainer": {
                "Image": self.image,
                "ModelDataSource": {"S3DataSource": source},
                "Environment": self._variables(),
            },
        }

    def _network(self) -> dict[str, list[str]]:
        return {"Subnets": list(self.subnet_ids), "SecurityGroupIds": list(self.security_group_ids)}

    def _variables(self) -> dict[str, str]:
        variables = {
            "DATA_BUCKET": self.bucket,
            "BLOCKED_WORDS": ",".join(self.blocked_words),
            "WATERMARK": self.watermark,
        }
        return {name: value for name, value in variables.items() if value}

    def config(self) -> dict[str, Any]:
        variant = {
            "VariantName": VARIANT,
            "ModelName": self.config_name,
            "InstanceType": self.instance_type,
            "InitialInstanceCount": 1,
            "InferenceAmiVersion": INFERENCE_AMI,
            "ModelDataDownloadTimeoutInSeconds": 1800,
            "ContainerStartupHealthCheckTimeoutInSeconds": 900,
        }
        return {
            "EndpointConfigName": self.config_name,
            "ProductionVariants": [variant],
            **({"KmsKeyId": self.volume_key_arn} if self.volume_key_arn else {}),
            "AsyncInferenceConfig": {
                "OutputConfig": {
                    **({"KmsKeyId": self.output_key_arn} if self.output_key_arn else {}),
                    "S3OutputPath": f"s3://{self.bucket}/{INFERENCE_OUTPUT}",
                    "S3FailurePath": f"s3://{self.bucket}/{INFERENCE_FAILURE}",
                    "NotificationConfig": {
                        "SuccessTopic": self.success_topic_arn,
                        "ErrorTopic": self.error_topic_arn,
                    },
                },
                "ClientConfig": {"MaxConcurrentInvocationsPerInstance": self.concurrent_invocations},
            },
        }

    def endpoint(self) -> dict[str, Any]:
        return {"EndpointName": self.endpoint_name, "EndpointConfigName": self.config_name}

    # ---- scaling between zero and max_instances

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
