"""CreateTrainingJob within and at the bounds of what a dataset may ask for: strictly the shape that SageMaker wants."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest

from contracts.pipeline import DatasetChecked, Quote
from contracts.training import MEMORY_TIER, Hyperparameters, TrainingRequest
from dreamdrop.local.sagemaker.errors import SageMakerError
from dreamdrop.local.sagemaker.validation import check_request
from lambdas.domain.training_job import Instance, training_job

ROLE = "arn:aws:iam::123456789012:role/training"
LARGEST_WITHOUT_A_BOUND = {"integer": 10**4299, "number": sys.float_info.max}  # what JSON's reader takes
FIELDS: dict[str, dict[str, Any]] = Hyperparameters.model_json_schema()["properties"]


def extremes(schema: dict[str, Any]) -> list[Any]:
    """The least and the greatest value of a field, every word of a choice, and nothing where nothing may be given."""
    if "anyOf" in schema:
        return [value for option in schema["anyOf"] for value in extremes(option)]
    kind = schema.get("type")
    if kind == "null":
        return [None]
    if kind == "boolean":
        return [False, True]
    if "enum" in schema:
        return list(schema["enum"])
    step = 1 if kind == "integer" else 1e-12
    least = schema.get("minimum", schema.get("exclusiveMinimum", 0) + step)
    above = schema.get("exclusiveMaximum")
    greatest = schema.get("maximum", LARGEST_WITHOUT_A_BOUND[kind] if above is None else above - step)
    return [least, greatest]


def job(hyperparameters: Hyperparameters, job_name: str = "dreamdrop-dog-1") -> dict[str, Any]:
    request = TrainingRequest(
        subject="dog", base_model="tiny", instance_prompt="a photo of sks dog", class_prompt="a photo of a dog",
        hyperparameters=hyperparameters,
    )  # fmt: skip
    checked = DatasetChecked(
        subject="dog", dataset_id="0" * 12, run_id="dog-0", request=request, instance_images=5, class_images=0,
        ignored=[],
    )  # fmt: skip
    quote = Quote(instance_type="ml.g5.xlarge", steps=1, seconds=1, dollars=1, limit_seconds=1, limit_dollars=1)
    return training_job(
        checked, quote, job_name=job_name, version="0" * 12 + "-1", bucket="photos", image="i", role_arn=ROLE,
        instance=Instance(capacity="spot", wait_seconds=3600, keep_alive_seconds=600),
    )  # fmt: skip


def assert_accepted(values: dict[str, Any]) -> None:
    made = job(Hyperparameters.model_validate(values))
    check_request("sagemaker", "CreateTrainingJob", made)


@pytest.mark.parametrize("name", FIELDS)
def test_a_hyperparameter_at_its_bounds_is_accepted(name: str) -> None:
    for value in extremes(FIELDS[name]):
        if (name, value) != ("compute_fid", True):
            assert_accepted({name: value})


def test_any_mixture_of_bounds_is_accepted() -> None:
    dice = random.Random(1)
    for _ in range(100):
        values = {name: dice.choice(extremes(schema)) for name, schema in FIELDS.items()}
        assert_accepted({**values, "compute_fid": False})


def test_no_field_is_left_out_of_the_job() -> None:
    given = {name: next(v for v in extremes(schema) if v is not None) for name, schema in FIELDS.items()}
    made = job(Hyperparameters.model_validate(given))
    assert made["HyperParameters"].keys() == {*FIELDS, MEMORY_TIER}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"TrainingJobName": "d" * 64}, "TrainingJobName"),
        ({"RoleArn": "arn:aws:iam::1:role/r"}, "RoleArn"),
        ({"Unknown": 1}, "Unknown"),
        ({"HyperParameters": {"a": "9" * 2501}}, "HyperParameters"),
        ({"HyperParameters": {str(n): "" for n in range(101)}}, "HyperParameters"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": 0}}, "MaxRuntimeInSeconds"),
        ({"Tags": [{"Key": "k", "Value": "🦆"}]}, "Tags"),
    ],
)
def test_a_broken_request_is_seen(change: dict[str, Any], named: str) -> None:
    with pytest.raises(SageMakerError, match=named):
        check_request("sagemaker", "CreateTrainingJob", job(Hyperparameters()) | change)
