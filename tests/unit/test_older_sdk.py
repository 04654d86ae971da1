"""The functions run with the SDK that Lambda's runtime brings, which may be older than what they ask of AWS."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.loaders import Loader
from moto.core.botocore_stubber import MockRawResponse

from lambdas.adapters import clients, hosting

NEWER = Path(clients.__file__).with_name("newer_sdk")
SERVICE, VERSION = "sagemaker-runtime", "2017-05-13"


@pytest.fixture
def without_inline_body(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As botocore knew InvokeEndpointAsync until 1.43.28."""
    model: dict[str, Any] = Loader(include_default_search_paths=True).load_data(f"{SERVICE}/{VERSION}/service-2")
    request = model["shapes"]["InvokeEndpointAsyncInput"]
    del request["members"]["Body"], request["payload"]
    request["required"] = ["EndpointName", "InputLocation"]
    folder = tmp_path / SERVICE / VERSION
    folder.mkdir(parents=True)
    (folder / "service-2.json").write_text(json.dumps(model))
    monkeypatch.setenv("AWS_DATA_PATH", f"{tmp_path}{os.pathsep}{NEWER}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    clients.client.cache_clear()
    yield
    clients.client.cache_clear()


@pytest.mark.usefixtures("without_inline_body")
def test_a_prompt_travels_inline_all_the_same() -> None:
    sent: list[AWSPreparedRequest] = []

    def answer(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        sent.append(request)
        return AWSResponse(request.url, 202, {}, MockRawResponse(b""))

    clients.client(SERVICE).meta.events.register(f"before-send.{SERVICE}", answer)
    hosting.submit("an-endpoint", "an-id", '{"prompt": "a ball"}', "application/json")
    [request] = sent
    assert request.url is not None
    assert request.url.endswith("/endpoints/an-endpoint/async-invocations")
    assert request.body == b'{"prompt": "a ball"}'
    assert request.headers["X-Amzn-SageMaker-Inference-Id"] == b"an-id"
    assert "X-Amzn-SageMaker-InputLocation" not in request.headers
