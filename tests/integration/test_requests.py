"""The requests that the functions and the state machine make have the shape that AWS wants, at the contract's limits.

What checks them is in the account fixture, so every other test of the functions asserts it too.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from contracts.artifact import BaseModelManifest
from contracts.generation import MAX_PAYLOAD_BYTES
from contracts.storage import (
    MANIFEST,
    MAX_BASE_MODEL_LENGTH,
    MAX_RESOURCE_PREFIX_LENGTH,
    MAX_SUBJECT_LENGTH,
    base_model_prefix,
    class_image_set_prefix,
)
from contracts.training import MAX_CONCEPTS, MAX_PROMPT_CHARACTERS, TrainingRequest
from lambdas.adapters import hosting, leftovers
from lambdas.adapters.clients import client
from lambdas.pipeline import check_dataset, judge_model, plan_training, publish_model, tell_ready
from tests.integration.account import ACCOUNT, REGION, Account, Context, photo
from tests.integration.conftest import strict_requests
from tests.integration.steps import hosted, leave_model, taken

# Of a state: https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html
LONGEST_PAYLOAD_BYTES = 256 * 1024
SUBJECT = "s" * MAX_SUBJECT_LENGTH
PREFIX = "p" * MAX_RESOURCE_PREFIX_LENGTH
BASE_MODEL = "b" * MAX_BASE_MODEL_LENGTH


@pytest.mark.parametrize(
    ("service", "operation", "request_", "named"),
    [
        ("sagemaker", "stop_training_job", {"TrainingJobName": "d" * 64}, "TrainingJobName"),
        ("sagemaker", "stop_training_job", {"TrainingJobName": "dream_drop"}, "TrainingJobName"),
        ("sns", "publish", {"Message": 1}, "Message"),
        ("s3", "get_object", {"Bucket": "b", "Key": ""}, "Key"),
    ],
)
def test_a_request_that_aws_would_refuse_fails(
    account: Account, service: str, operation: str, request_: dict[str, str], named: str
) -> None:
    with pytest.raises(AssertionError, match=named):
        getattr(client(service), operation)(**request_)
    assert len(strict_requests.refused) == 1
    strict_requests.refused.clear()


@pytest.fixture
def longest_names(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    region = "ap-southeast-2"
    image = f"{ACCOUNT}.dkr.ecr.{region}.amazonaws.com/cdk-hnb659fds-container-assets-{ACCOUNT}-{region}:{'0' * 64}"
    for name, value in {
        "RESOURCE_PREFIX": PREFIX,
        "DEFAULT_BASE_MODEL": BASE_MODEL,
        "TRAINING_IMAGE": image,
        "INFERENCE_IMAGE": image,
        "TRAINING_ROLE_ARN": f"arn:aws:iam::{ACCOUNT}:role/{'r' * 64}",
        "INFERENCE_ROLE_ARN": f"arn:aws:iam::{ACCOUNT}:role/{'r' * 64}",
        "INFERENCE_SUCCESS_TOPIC_ARN": f"arn:aws:sns:{REGION}:{ACCOUNT}:{'t' * 256}",
        "INFERENCE_ERROR_TOPIC_ARN": f"arn:aws:sns:{REGION}:{ACCOUNT}:{'t' * 256}",
        "BLOCKED_WORDS": "ä" * 512,
        "WATERMARK": "ä" * 512,
    }.items():
        monkeypatch.setenv(name, value)
    base = BaseModelManifest(id=BASE_MODEL, files=[], checksum="c" * 64, resolution=64, source="t", licence="t")
    account.put(base_model_prefix(BASE_MODEL) + MANIFEST, base.model_dump_json().encode())


def longest_info() -> bytes:
    """Every prompt is as long as it may be, in characters that take the most bytes."""
    prompt = "🦆" * (MAX_PROMPT_CHARACTERS - 2)
    concepts = [
        {"folder": f"{n:02}".ljust(64, "f"), "instance_prompt": f"{prompt}{n:02}", "class_prompt": f"{n:02}{prompt}"}
        for n in range(MAX_CONCEPTS)
    ]
    hyperparameters = {"with_prior_preservation": True, "num_class_images": 1, "max_steps": 10}
    info = {"instance_prompt": prompt, "class_prompt": prompt, "concepts": concepts, "hyperparameters": hyperparameters}
    return json.dumps(info).encode()


def longest_dataset() -> dict[str, bytes]:
    longest_name = "n" * 200
    photos = {f"{json.loads(longest_info())['concepts'][n]['folder']}/{longest_name}.png": photo() for n in range(10)}
    ignored = {f"{n:02}{'ü' * 120}.txt": b"no caption" for n in range(30)}
    return {f"{longest_name}.png": photo(), **photos, **ignored, "dataset_info.json": longest_info()}


def payload_bytes(payload: dict[str, Any]) -> int:
    return len(json.dumps(payload, ensure_ascii=False).encode())


@pytest.mark.usefixtures("longest_names")
def test_everything_at_its_longest_is_accepted_from_the_drop_to_the_removal(account: Account, context: Context) -> None:
    checked = check_dataset.handler(taken(account, context, SUBJECT, longest_dataset()), context)
    request = TrainingRequest.model_validate(checked["request"])
    for image_set in request.class_image_sets("c" * 64):
        account.put(f"{class_image_set_prefix(image_set)}class-0.png", photo())
    planned = plan_training.handler(checked, context)
    job = planned["training_job"]
    assert len(job["InputDataConfig"]) == 2 + 1 + MAX_CONCEPTS
    client("sagemaker").create_training_job(**job)  # the request of the state Train, as it stands

    output = f"{job['OutputDataConfig']['S3OutputPath']}/{planned['job_name']}/output/model"
    leave_model(account, output, "c" * 64)
    judged = judge_model.handler(planned | {"artifact_uri": output, "billable_seconds": 60}, context)
    done = hosted(publish_model.handler(judged, context), context)
    tell_ready.handler(done, context)
    for payload in (checked, planned, judged, done):
        assert payload_bytes(payload) < LONGEST_PAYLOAD_BYTES

    for accept in ("image/png", "image/jpeg", "image/webp"):
        hosting.submit(done["endpoint_name"], "f" * 32, "x" * MAX_PAYLOAD_BYTES, accept)
    hosting.wake(done["endpoint_name"])
    assert not leftovers.is_running(planned["job_name"])
    leftovers.remove_endpoint(done["endpoint_name"])
    for model in leftovers.models_of(PREFIX, f"arn:aws:iam::{ACCOUNT}:role/{'r' * 64}"):
        leftovers.remove_model(model)
