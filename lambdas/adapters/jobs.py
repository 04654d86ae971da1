"""SageMaker's training jobs, as their ends are settled."""

from __future__ import annotations

from typing import Any

from lambdas.adapters.clients import client


def describe(name: str) -> dict[str, Any]:
    described: dict[str, Any] = client("sagemaker").describe_training_job(TrainingJobName=name)
    return described
