"""Asking for pictures over HTTP: what goes wrong, and what survives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from PIL import Image

from contracts.errors import DreamdropError, InvalidRequest, UnknownGeneration, UnknownSubject
from contracts.generation import GenerationRequest, MixedSubject
from contracts.storage import image_key, source_prefix
from tests.e2e.conftest import PATIENCE_SECONDS, Cloud, dataset_info, photo, until
from tests.synthesized import PROJECT

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def subject(cloud: Cloud) -> str:
    cloud.drop("vase", {"a.png": photo(1), "dataset_info.json": dataset_info(4)})
    cloud.client.wait_until_ready("vase", poll_seconds=0.1)
    return "vase"


def post(cloud: Cloud, body: bytes, signed: bool = True) -> tuple[int, dict[str, Any]]:
    """As any HTTP client would: status and body."""
    url = f"{cloud.deployment.api_url}/v1/generations"
    request = AWSRequest("POST", url, data=body, headers={"content-type": "application/json"})
    if signed:
        credentials = cloud.deployment.session().get_credentials()
        SigV4Auth(credentials, "execute-api", cloud.deployment.region).add_auth(request)
    sent = urllib.request.Request(url, body, dict(request.headers), method="POST")
    try:
        with urllib.request.urlopen(sent, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.parametrize(
    ("change", "status", "code", "named"),
    [
        ({"prompt": "x" * 10_000}, 400, "invalid_request", "prompt"),
        ({"width": 100}, 400, "invalid_request", "width"),
        ({"seed": "not a number"}, 400, "invalid_request", "seed"),
        ({"subject": "nobody"}, 404, "unknown_subject", "nobody"),
        ({"steps": 3}, 400, "invalid_request", "steps"),
    ],
)
def test_a_bad_request_names_cause_and_cure(
    cloud: Cloud, subject: str, change: dict[str, Any], status: int, code: str, named: str
) -> None:
    got, body = post(cloud, json.dumps({"subject": subject, "prompt": "p"} | change).encode())
    assert (got, body["error"]["code"]) == (status, code)
    assert named in body["error"]["cause"]
    assert body["error"]["cure"]
    assert body["correlation_id"]


def test_an_unsigned_request_is_turned_away(cloud: Cloud, subject: str) -> None:
    status, _ = post(cloud, json.dumps({"subject": subject, "prompt": "p"}).encode(), signed=False)
    assert status == 403


def test_unknown_ids_are_not_found(cloud: Cloud) -> None:
    with pytest.raises(UnknownGeneration):
        cloud.client.generation("0" * 32)
    with pytest.raises(UnknownSubject):
        cloud.client.subject("nobody")


def test_a_picture_starts_from_an_uploaded_one_and_mixes_two_subjects(
    cloud: Cloud, subject: str, tmp_path: Path
) -> None:
    cloud.drop("bowl", {"a.png": photo(2), "dataset_info.json": dataset_info(4)})
    versions = {subject: cloud.client.subject(subject).version, "bowl": None}
    versions["bowl"] = cloud.client.wait_until_ready("bowl", poll_seconds=0.1).version
    sketch = tmp_path / "sketch.png"
    sketch.write_bytes(photo(3, size=200))
    request = GenerationRequest(
        subject=subject,
        prompt="p",
        num_inference_steps=2,
        mix=[MixedSubject(subject="bowl", lora_scale=0.5)],
        source_image=cloud.client.upload_source(sketch),
        strength=0.6,
        upscale=2,
        format="webp",
    )
    drawn = cloud.client.wait_for_generation(cloud.client.generate(request).id, poll_seconds=0.2)
    [path] = cloud.client.save_images(drawn, tmp_path)
    with Image.open(path) as picture:
        assert (path.suffix, picture.format, picture.size) == (".webp", "WEBP", (128, 128))
    assert {drawn.subject: drawn.version, "bowl": drawn.request.mix[0].version} == versions
    key = image_key(drawn.id, 0, "webp")
    metadata = cloud.s3.head_object(Bucket=cloud.deployment.data_bucket, Key=key)["Metadata"]
    assert metadata["subjects"] == f"{subject}@{versions[subject]},bowl@{versions['bowl']}"


def test_another_owners_source_picture_does_not_exist(cloud: Cloud, subject: str) -> None:
    request = GenerationRequest(subject=subject, prompt="p", source_image=source_prefix("somebody") + "0" * 32)
    with pytest.raises(InvalidRequest, match="source_image"):
        cloud.client.generate(request)


def test_a_dedicated_endpoint_draws_its_subject_comes_back_and_goes_with_it(cloud: Cloud, tmp_path: Path) -> None:
    info = json.loads(dataset_info(4)) | {"hosting": "dedicated"}
    cloud.drop("crown", {"a.png": photo(5), "dataset_info.json": json.dumps(info).encode()})
    ready = cloud.client.wait_until_ready("crown", poll_seconds=0.1)
    [listed] = [one for one in cloud.client.subjects() if one.subject == "crown"]
    assert (listed.ready, listed.hosting) == (True, "dedicated")
    sagemaker = cloud.deployment.client("sagemaker")
    name = "dreamdrop--crown"
    model = sagemaker.describe_model(ModelName=sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"])
    assert model["EnableNetworkIsolation"] is True

    def drawn(**more: Any) -> Path:
        request = GenerationRequest(subject="crown", prompt="p", num_inference_steps=2, seed=3, **more)
        done = cloud.client.wait_for_generation(cloud.client.generate(request).id, poll_seconds=0.1)
        assert done.version == ready.version
        [path] = cloud.client.save_images(done, tmp_path)
        return path

    first, half = drawn(), drawn(lora_scale=0.5)
    assert first.read_bytes() != half.read_bytes()

    jobs = len(sagemaker.list_training_jobs()["TrainingJobSummaries"])
    sagemaker.delete_endpoint(EndpointName=name)  # as `make destroy` does; the rows stay
    until("the endpoint is gone", lambda: name not in endpoints(cloud))
    again = drawn()
    assert pixels(again) == pixels(first)
    assert len(sagemaker.list_training_jobs()["TrainingJobSummaries"]) == jobs

    cloud.client.delete("crown")
    cloud.client.wait_until_gone("crown", timeout_seconds=PATIENCE_SECONDS, poll_seconds=0.1)
    assert name not in endpoints(cloud)
    models = sagemaker.list_models(NameContains=name)["Models"]
    assert models == []


def endpoints(cloud: Cloud) -> set[str]:
    return {one["EndpointName"] for one in cloud.deployment.client("sagemaker").list_endpoints()["Endpoints"]}


def pixels(path: Path) -> bytes:
    with Image.open(path) as picture:
        return picture.tobytes()


def test_a_cancelled_request_stays_cancelled(cloud: Cloud, subject: str) -> None:
    request = GenerationRequest(subject=subject, prompt="p", num_inference_steps=30, num_images_per_prompt=4)
    first, second = (cloud.client.generate(request) for _ in range(2))
    assert cloud.client.generation(second.id).queue_position in (0, 1)
    assert cloud.client.cancel(second.id).status == "cancelled"
    assert cloud.client.wait_for_generation(first.id, poll_seconds=0.2).images
    assert cloud.client.generation(second.id).status == "cancelled"


@pytest.mark.parametrize("tool", ["generate.py", "generate.sh"])
def test_the_examples_draw_a_picture(cloud: Cloud, subject: str, tool: str, tmp_path: Path) -> None:
    if tool == "generate.sh" and not (shutil.which("curl") and shutil.which("jq")):
        pytest.skip("generate.sh needs curl and jq")
    program = [sys.executable] if tool.endswith(".py") else ["sh"]
    picture = tmp_path / "picture.png"
    keys = {"AWS_ACCESS_KEY_ID": str(cloud.deployment.account), "AWS_SECRET_ACCESS_KEY": "local"}
    arguments = [cloud.deployment.api_url, subject, "a photo of sks vase", str(picture)]
    subprocess.run([*program, str(PROJECT / "examples" / tool), *arguments], env={**os.environ, **keys}, check=True)
    assert Image.open(picture).size == (64, 64)


def test_an_endpoint_that_crashes_in_mid_request_fails_that_request_and_serves_the_next(
    cloud: Cloud, subject: str
) -> None:
    long = GenerationRequest(subject=subject, prompt="p", num_inference_steps=200, num_images_per_prompt=8)
    accepted = cloud.client.generate(long)

    def working() -> int:
        return cloud.kill("inference_container")

    until("the request is being worked on", lambda: is_busy(cloud))
    assert working() > 0
    with pytest.raises(DreamdropError) as caught:
        cloud.client.wait_for_generation(accepted.id, poll_seconds=0.2)
    assert caught.value.code == "generation_failed"
    short = GenerationRequest(subject=subject, prompt="p", num_inference_steps=2)
    assert cloud.client.wait_for_generation(cloud.client.generate(short).id).images


def is_busy(cloud: Cloud) -> bool:
    """The endpoint took the request out of its queue."""
    requests = list((cloud.state / "sagemaker").rglob("async-requests/*"))
    log = "".join(path.read_text(errors="replace") for path in (cloud.state / "sagemaker").rglob("endpoints/*/log.txt"))
    return bool(requests) or "invocations" in log


def test_everything_survives_a_restart(cloud: Cloud, subject: str) -> None:
    before = cloud.client.subject(subject)
    cloud.restart()
    after = cloud.client.subject(subject)
    assert after == before
    request = GenerationRequest(subject=subject, prompt="p", num_inference_steps=2, seed=5)
    drawn = cloud.client.wait_for_generation(cloud.client.generate(request).id)
    assert drawn.status == "succeeded"
    cloud.drop("after-restart", {"a.png": photo(2), "dataset_info.json": dataset_info(4)})
    assert cloud.client.wait_until_ready("after-restart").ready
