"""The requests that make an asynchronous endpoint: one for all subjects of a base model, or one for a subject alone.

https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-create-invoke.html
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from contracts.generation import CONCURRENT_INVOCATIONS
from contracts.storage import INFERENCE_FAILURE, INFERENCE_OUTPUT, OWN_SUBJECT, as_resource_name, base_model_prefix
from lambdas.domain.scaling import VARIANT

# Driver 550, CUDA 12.4, which runs the CUDA 12.8 libraries of the image; hosts are given an older one by default.
INFERENCE_AMI = "al2-ami-sagemaker-inference-gpu-3-1"

BASE_MODEL_CHECKSUM = "BASE_MODEL_CHECKSUM"  # a variable of the container, by which a model tells what it was made of
BETWEEN_TRIES = timedelta(minutes=15)  # to make one that failed: whoever asks all the time cannot make more


@dataclass(frozen=True)
class OwnSubject:
    """The one subject of a dedicated endpoint."""

    name: str
    version: str
    prefix: str  # of the model's files in the data bucket; ends with a slash


@dataclass(frozen=True, kw_only=True)
class EndpointPlan:
    """The configuration's name holds a digest: a changed plan is a new configuration."""

    prefix: str
    base_model: str
    base_model_checksum: str
    bucket: str
    image: str
    role_arn: str
    instance_type: str
    success_topic_arn: str
    error_topic_arn: str
    blocked_words: tuple[str, ...] = ()
    watermark: str = ""
    subnet_ids: tuple[str, ...] = ()
    security_group_ids: tuple[str, ...] = ()
    output_key_arn: str = ""
    volume_key_arn: str = ""
    concurrent_invocations: int = CONCURRENT_INVOCATIONS
    subject: OwnSubject | None = None

    @property
    def endpoint_name(self) -> str:
        if self.subject:
            return own_endpoint_name(self.prefix, self.subject.name)
        return f"{self.prefix}-{as_resource_name(self.base_model)}"

    @property
    def config_name(self) -> str:
        content = json.dumps(asdict(self), sort_keys=True)
        return f"{self.endpoint_name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"

    def model(self) -> dict[str, Any]:
        container: dict[str, Any] = {
            "Image": self.image,
            "ModelDataSource": {"S3DataSource": self._source(base_model_prefix(self.base_model))},
            "Environment": self._variables(),
        }
        model = {"ModelName": self.config_name, "ExecutionRoleArn": self.role_arn, "PrimaryContainer": container}
        if not self.subject:
            return {**model, "VpcConfig": self._network()} if self.subnet_ids else model
        own = {"ChannelName": OWN_SUBJECT, "S3DataSource": self._source(self.subject.prefix)}
        container["AdditionalModelDataSources"] = [own]
        return {**model, "EnableNetworkIsolation": True}  # everything comes by the two sources

    def _source(self, prefix: str) -> dict[str, str]:
        return {"S3Uri": f"s3://{self.bucket}/{prefix}", "S3DataType": "S3Prefix", "CompressionType": "None"}

    def _network(self) -> dict[str, list[str]]:
        return {"Subnets": list(self.subnet_ids), "SecurityGroupIds": list(self.security_group_ids)}

    def _variables(self) -> dict[str, str]:
        variables = {
            BASE_MODEL_CHECKSUM: self.base_model_checksum,
            "DATA_BUCKET": "" if self.subject else self.bucket,
            "SUBJECT": f"{self.subject.name}@{self.subject.version}" if self.subject else "",
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


def own_endpoint_name(prefix: str, subject: str) -> str:
    """No prefix, subject or base model holds two hyphens in a row: nothing else of any deployment is called so."""
    return f"{prefix}--{subject}"


def subject_of_own(prefix: str, endpoint_name: str) -> str | None:
    """None for an endpoint that subjects share, and for those of other deployments."""
    start, _, subject = endpoint_name.partition("--")
    return subject if start == prefix and subject else None


def is_of(endpoint_name: str, config_name: str) -> bool:
    """A configuration, and its model, of that endpoint: no matter of which plan."""
    return re.fullmatch(rf"{re.escape(endpoint_name)}-[0-9a-f]{{8}}", config_name) is not None
