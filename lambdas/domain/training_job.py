"""The CreateTrainingJob request, whole.

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTrainingJob.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel

from contracts.pipeline import DatasetChecked, JobReceipt, Quote, TrainingCapacity
from contracts.storage import (
    PREVIOUS_MODEL,
    base_model_prefix,
    checkpoint_prefix,
    class_image_folder,
    class_image_set_prefix,
    snapshot_prefix,
    version_prefix,
)
from contracts.training import MEMORY_TIER
from lambdas.domain.pricing import job_receipt

# Ignored on instances with local NVMe disks, which are all that have a price here (g4dn, g5, g6). Those encrypt
# themselves; a VolumeKmsKeyId would be refused.
VOLUME_GIB = 50
LOSS_METRIC = {"Name": "train-loss", "Regex": r"train_avg_loss=([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)"}


class EndedJob(BaseModel):
    """What decisions need of DescribeTrainingJob's answer, by its own names."""

    TrainingJobStatus: str
    SecondaryStatus: str = ""
    FailureReason: str = ""
    CreationTime: datetime | None = None
    TrainingStartTime: datetime | None = None
    TrainingEndTime: datetime | None = None
    TrainingTimeInSeconds: int | None = None
    BillableTimeInSeconds: int | None = None
    EnableManagedSpotTraining: bool = False
    ResourceConfig: dict[str, Any] = {}
    StoppingCondition: dict[str, int] = {}

    def receipt(self, attempt: int, *, is_billed: bool) -> JobReceipt:
        return job_receipt(
            attempt,
            self.ResourceConfig["InstanceType"],
            is_billed=is_billed,
            training_seconds=self.TrainingTimeInSeconds or 0,
            billable_seconds=self.BillableTimeInSeconds or 0,
            spot=self.EnableManagedSpotTraining,
            keep_alive_seconds=self.ResourceConfig.get("KeepAlivePeriodInSeconds", 0),
        )

    @property
    def has_waited_in_vain(self) -> bool:
        """It was stopped before it started, and not from outside."""
        pending = self.StoppingCondition.get("MaxPendingTimeInSeconds")
        if pending is None or self.TrainingStartTime or not (self.CreationTime and self.TrainingEndTime):
            return False
        return self.TrainingEndTime - self.CreationTime >= timedelta(seconds=pending)


@dataclass(frozen=True, kw_only=True)
class Instance:
    """How the instance is bought, how long the job may wait for it, how long it may wait for the next job."""

    capacity: TrainingCapacity
    wait_seconds: int
    keep_alive_seconds: int

    def resources(self) -> dict[str, Any]:
        """Of ResourceConfig."""
        return {"KeepAlivePeriodInSeconds": self.keep_alive_seconds} if self.capacity == "warm-pool" else {}

    def limits(self, run_seconds: int) -> dict[str, Any]:
        """StoppingCondition. A spot job's wait includes its run; any other job's ends with its start."""
        wait = (
            {"MaxWaitTimeInSeconds": run_seconds + self.wait_seconds}
            if self.capacity == "spot"
            else {"MaxPendingTimeInSeconds": self.wait_seconds}
        )
        return {"MaxRuntimeInSeconds": run_seconds, **wait}


def training_job(
    checked: DatasetChecked,
    quote: Quote,
    *,
    job_name: str,
    version: str,
    bucket: str,
    image: str,
    role_arn: str,
    instance: Instance,
    class_image_sets: Sequence[str] = (),
    output_key_arn: str = "",
) -> dict[str, Any]:
    """Network isolation is on: everything arrives and leaves through channels, model, checkpoints and logs.

    class_image_sets: those that the bucket keeps; an empty channel would fail the job.
    """
    subject, request = checked.subject, checked.request
    return {
        "TrainingJobName": job_name,
        "RoleArn": role_arn,
        "AlgorithmSpecification": {
            "TrainingImage": image,
            "TrainingInputMode": "File",
            "MetricDefinitions": [LOSS_METRIC],
        },
        "HyperParameters": {**request.hyperparameters.to_sagemaker(), MEMORY_TIER: str(checked.memory_tier)},
        "InputDataConfig": [
            _channel("training", f"s3://{bucket}/{snapshot_prefix(subject, checked.dataset_id)}"),
            _channel("model", f"s3://{bucket}/{base_model_prefix(request.base_model)}"),
            *(
                [_channel(PREVIOUS_MODEL, f"s3://{bucket}/{request.previous_prefix}")]
                if request.previous_prefix
                else []
            ),
            *(
                _channel(class_image_folder(kept), f"s3://{bucket}/{class_image_set_prefix(kept)}")
                for kept in class_image_sets
            ),
        ],
        "OutputDataConfig": {
            "S3OutputPath": f"s3://{bucket}/{version_prefix(subject, version)}".rstrip("/"),
            "CompressionType": "NONE",
            **({"KmsKeyId": output_key_arn} if output_key_arn else {}),  # else SageMaker names a key of AWS itself
        },
        "CheckpointConfig": {
            "S3Uri": f"s3://{bucket}/{checkpoint_prefix(subject, checked.dataset_id)}".rstrip("/"),
            "LocalPath": "/opt/ml/checkpoints",
        },
        "ResourceConfig": {
            "InstanceType": quote.instance_type,
            "InstanceCount": 1,
            "VolumeSizeInGB": VOLUME_GIB,
            **instance.resources(),
        },
        "StoppingCondition": instance.limits(quote.limit_seconds),
        "EnableManagedSpotTraining": instance.capacity == "spot",
        "EnableNetworkIsolation": True,
        "Tags": [{"Key": "dreamdrop:subject", "Value": subject}, {"Key": "dreamdrop:run", "Value": checked.run_id}],
    }


def _channel(name: str, uri: str) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": "File"}
