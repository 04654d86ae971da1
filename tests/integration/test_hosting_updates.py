"""HostModel against the local SageMaker: real serving processes, updated while requests wait for them."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from contracts import errors
from contracts.artifact import BaseModelManifest
from contracts.storage import MANIFEST, base_model_prefix, version_prefix
from dreamdrop.local.sagemaker import SageMakerError
from lambdas.adapters import clients, configuration, hosting, leftovers, rows
from lambdas.adapters.table import Subjects
from lambdas.domain.scaling import scalable
from lambdas.hosting import host_model
from tests.integration.account import BUCKET, TABLE, Context, furnish, variables
from tests.integration.api_parts import OLDER, VERSION
from tests.integration.sagemaker_harness import IMAGE, ROLE, Workshop, eventually
from tests.integration.test_hosting import OWN, SHARED, published

pytest_plugins = ["tests.integration.sagemaker_fixtures"]

NEWER = "c" * 12 + "-1"


class Engine:
    """boto3's clients of SageMaker and its scaling, without HTTP in between."""

    def __init__(self, call: Callable[[str, dict[str, Any]], dict[str, Any]], operations: frozenset[str]) -> None:
        self._call = call
        self._operations = {re.sub("(?<!^)(?=[A-Z])", "_", name).lower(): name for name in operations}

    def get_paginator(self, method: str) -> SimpleNamespace:
        return SimpleNamespace(paginate=lambda **request: [getattr(self, method)(**request)])  # one page

    def __getattr__(self, method: str) -> Callable[..., dict[str, Any]]:
        operation = self._operations[method]

        def call(**request: Any) -> dict[str, Any]:
            try:
                return self._call(operation, request)
            except SageMakerError as error:
                raise ClientError({"Error": {"Code": error.code, "Message": str(error)}}, operation) from error

        return call


@pytest.fixture
def shop(make_shop: Any, aws_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    urllib.request.urlopen(urllib.request.Request(f"{aws_url}/moto-api/reset", method="POST"), timeout=10).close()
    shop: Workshop = make_shop()
    for name, value in {
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "POWERTOOLS_TRACE_DISABLED": "1", "AWS_ENDPOINT_URL": aws_url,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for cache in (clients.client, rows.table_named, configuration._parsed):
        cache.cache_clear()
    over_http = clients.client
    engine = shop.engine
    local = {
        "sagemaker": Engine(engine.call, engine.operations),
        "application-autoscaling": Engine(engine.autoscaling.call, engine.autoscaling.operations),
    }
    for module in (clients, hosting, leftovers):
        monkeypatch.setattr(module, "client", lambda service: local.get(service) or over_http(service))
    account = furnish()
    topics = {"INFERENCE_SUCCESS_TOPIC_ARN": shop.topic("success"), "INFERENCE_ERROR_TOPIC_ARN": shop.topic("error")}
    image = {"INFERENCE_IMAGE": f"{IMAGE}server", "INFERENCE_ROLE_ARN": ROLE, "SLEEP_AFTER_CREATION": "False"}
    for name, value in (variables(account) | topics | image).items():
        monkeypatch.setenv(name, value)
    account.put(base_model_prefix("tiny") + "weights.txt", b"tiny")
    for version in (OLDER, VERSION, NEWER):
        account.put(version_prefix("dog", version) + "subject.txt", version.encode())
    yield shop
    for cache in (over_http, rows.table_named, configuration._parsed):
        cache.cache_clear()


def hosted(payload: dict[str, Any]) -> dict[str, Any]:
    """The loop of the state machine around HostModel."""
    rounds = [payload]

    def next_round() -> dict[str, Any] | None:
        rounds.append(host_model.handler(rounds[-1], Context()))
        return rounds[-1] if rounds[-1]["endpoint_status"] == "InService" else None

    return eventually(next_round)


def is_scaled(shop: Workshop, endpoint_name: str) -> bool:
    where = {"ServiceNamespace": "sagemaker", "ResourceIds": [scalable(endpoint_name)["ResourceId"]]}
    return bool(shop.engine.autoscaling.call("DescribeScalableTargets", where)["ScalableTargets"])


def answers(shop: Workshop, sent: list[dict[str, str]]) -> list[dict[str, Any]]:
    """In the order of the requests, once all have succeeded."""
    told = {shop.notification("success")["inferenceId"] for _ in sent}
    assert told == {one["InferenceId"] for one in sent}
    found = []
    for one in sent:
        key = one["OutputLocation"].removeprefix(f"s3://{BUCKET}/")
        found.append(json.loads(shop.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()))
    return found


def test_a_dedicated_endpoint_gets_its_subject_and_no_credentials(shop: Workshop) -> None:
    hosted(published("dedicated"))
    [answer] = answers(shop, [shop.ask(OWN, {})])
    assert (answer["model"], answer["additional"]) == ("tiny", {"subject/subject.txt": VERSION})
    assert answer["has_credentials"] is False


def test_what_waits_during_an_update_is_answered_and_nothing_is_lost(shop: Workshop) -> None:
    hosted(published("dedicated", OLDER))
    sent = [shop.ask(OWN, {"sleep": 0.5, "n": number}) for number in range(12)]  # eight at a time: four wait
    first = host_model.handler(published("dedicated"), Context())
    assert (first["endpoint_status"], first["endpoint_changed"]) == ("Updating", True)
    assert not hosting.scales(OWN)
    assert not is_scaled(shop, OWN)
    sent += [shop.ask(OWN, {"n": number}) for number in range(12, 20)]
    hosted(first)
    assert hosting.scales(OWN)
    sent.append(shop.ask(OWN, {"n": 20}))
    found = answers(shop, sent)
    assert [answer["echo"]["n"] for answer in found] == list(range(21))
    assert found[0]["additional"] == {"subject/subject.txt": OLDER}
    assert found[-1]["additional"] == {"subject/subject.txt": VERSION}
    promoted = Subjects(TABLE).hosted("dog")
    assert promoted is not None
    assert (promoted.version, promoted.endpoint_name) == (VERSION, OWN)


def test_an_older_version_leaves_the_endpoint_to_the_newer_one(shop: Workshop) -> None:
    late = published("dedicated", OLDER)  # taken first
    hosted(published("dedicated"))
    config = shop.endpoint(OWN)["EndpointConfigName"]
    hosted(late)
    assert shop.endpoint(OWN)["EndpointConfigName"] == config
    hosted(published("dedicated", NEWER))
    assert shop.endpoint(OWN)["EndpointConfigName"] != config


def test_a_larger_instance_type_is_no_obstacle_to_an_update(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    hosted(published("shared", OLDER))
    monkeypatch.setenv("INFERENCE_INSTANCE_TYPE", "ml.g5.2xlarge")
    configuration._parsed.cache_clear()
    hosted(published("shared"))
    config = shop.engine.call(
        "DescribeEndpointConfig", {"EndpointConfigName": shop.endpoint(SHARED)["EndpointConfigName"]}
    )
    assert config["ProductionVariants"][0]["InstanceType"] == "ml.g5.2xlarge"
    assert hosting.scales(SHARED)
    monkeypatch.setattr(hosting, "unless_gone", lambda *_, **__: None)  # without taking the scaling off
    monkeypatch.setenv("INFERENCE_INSTANCE_TYPE", "ml.g5.4xlarge")
    configuration._parsed.cache_clear()
    with pytest.raises(ClientError, match="deregistered as scalable target"):
        host_model.handler(published("shared", NEWER), Context())


def test_an_update_goes_on_after_the_function_died_in_it(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    hosted(published("dedicated", OLDER))
    payload = published("dedicated")
    with monkeypatch.context() as patch:
        patch.setattr(hosting, "unless_gone", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            host_model.handler(payload, Context())
    host_model.handler(payload, Context())
    hosted(payload)  # again from the beginning, in the middle of the update
    assert hosting.scales(OWN)
    [answer] = answers(shop, [shop.ask(OWN, {})])
    assert answer["additional"] == {"subject/subject.txt": VERSION}


def test_an_update_that_is_rolled_back_leaves_the_old_version_serving_and_scaled(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosted(published("dedicated", OLDER))
    shop.s3.delete_object(Bucket=BUCKET, Key=version_prefix("dog", VERSION) + "subject.txt")
    with pytest.raises(errors.HostingFailed, match="No S3 objects found"):
        hosted(published("dedicated"))
    assert hosting.scales(OWN)
    [answer] = answers(shop, [shop.ask(OWN, {})])
    assert answer["additional"] == {"subject/subject.txt": OLDER}
    assert Subjects(TABLE).hosted("dog").version == OLDER  # type: ignore[union-attr]


class Quota:
    """SageMaker refuses every update for want of instances, until it is mended."""

    TEXT = "The account-level service limit 'ml.g5.xlarge for endpoint usage' is 1 Instances"

    def __init__(self, shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mended, call = False, shop.engine.call

        def refuse(operation: str, request: dict[str, Any]) -> dict[str, Any]:
            if operation == "UpdateEndpoint" and not self.mended:
                raise SageMakerError("ResourceLimitExceeded", self.TEXT)
            answer: dict[str, Any] = call(operation, request)
            return answer

        monkeypatch.setattr(hosting.client("sagemaker"), "_call", refuse)


def test_a_shared_endpoint_draws_the_new_version_although_the_quota_forbids_an_update(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosted(published("shared", OLDER))
    config = shop.endpoint(SHARED)["EndpointConfigName"]
    quota = Quota(shop, monkeypatch)
    monkeypatch.setenv("WATERMARK", "w")
    configuration._parsed.cache_clear()
    hosted(published("shared"))
    assert Subjects(TABLE).hosted("dog").version == VERSION  # type: ignore[union-attr]
    assert shop.endpoint(SHARED)["EndpointConfigName"] == config
    assert (hosting.scales(SHARED), is_scaled(shop, SHARED)) == (True, True)
    quota.mended = True
    hosted(published("shared", NEWER))  # the next run tries again
    assert shop.endpoint(SHARED)["EndpointConfigName"] != config


def test_a_shared_endpoint_with_other_weights_does_not_draw_the_new_version(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosted(published("shared", OLDER))
    Quota(shop, monkeypatch)
    base = BaseModelManifest(id="tiny", files=[], checksum="d" * 64, resolution=64, source="test", licence="test")
    shop.s3.put_object(Bucket=BUCKET, Key=base_model_prefix("tiny") + MANIFEST, Body=base.model_dump_json().encode())
    with pytest.raises(errors.HostingFailed, match="endpoint usage"):
        hosted(published("shared"))
    assert Subjects(TABLE).hosted("dog").version == OLDER  # type: ignore[union-attr]


def test_a_dedicated_endpoint_that_the_quota_keeps_from_an_update_stays_scaled(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosted(published("dedicated", OLDER))
    Quota(shop, monkeypatch)
    with pytest.raises(errors.HostingFailed, match="endpoint usage") as refused:
        hosted(published("dedicated"))
    assert "Service Quotas" in refused.value.cure
    assert (hosting.scales(OWN), is_scaled(shop, OWN)) == (True, True)


def test_the_end_of_a_dedicated_endpoint_takes_all_its_models(shop: Workshop) -> None:
    hosted(published("shared", OLDER))
    for version in (VERSION, NEWER):
        hosted(published("dedicated", version))
    eventually(lambda: not leftovers.remove_with_models(OWN))
    left = [model["ModelName"] for model in shop.engine.call("ListModels", {})["Models"]]
    assert [name for name in left if name.startswith(OWN)] == []
    assert len(left) == 1
    assert shop.in_service(SHARED)
