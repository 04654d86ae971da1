"""Endpoints of the local SageMaker: real serving processes, real queues, notifications over SNS and SQS."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dreamdrop.local.sagemaker import SageMakerError
from dreamdrop.local.sagemaker.async_delivery import AsyncDelivery
from dreamdrop.local.sagemaker.processes import ContainerProcess
from tests.integration.sagemaker_harness import ACCOUNT, BUCKET, IMAGE, ROLE, Workshop, eventually, leftovers

pytest_plugins = ["tests.integration.sagemaker_fixtures"]


def test_an_asynchronous_request_is_answered_in_s3_and_by_notification(shop: Workshop) -> None:
    name = shop.host()
    sent = shop.ask(name, {"prompt": "a toy"}, Inference_Id="job-1", Custom_Attributes="x=1", Accept="image/png")
    message = shop.notification("success")
    assert sent["InferenceId"] == message["inferenceId"] == "job-1"
    assert message["invocationStatus"] == "Completed"
    assert message["requestParameters"]["endpointName"] == name
    assert message["responseParameters"] == {
        "contentType": "application/json",
        "outputLocation": sent["OutputLocation"],
    }
    answer = json.loads(shop.get(sent["OutputLocation"]))
    assert (answer["model"], answer["custom"], answer["echo"]) == ("v1", "x=1", {"prompt": "a toy"})
    assert shop.events[-1][1]["EndpointStatus"] == "IN_SERVICE"


def test_the_input_may_be_an_object_and_the_output_may_be_named(shop: Workshop) -> None:
    name = shop.host()
    shop.put("requests/1.json", json.dumps({"n": 1}))
    location = f"s3://{BUCKET}/requests/1.json"
    headers = {"X-Amzn-SageMaker-InputLocation": location, "X-Amzn-SageMaker-Filename": "one.json"}
    sent = shop.engine.invoke_async(name, headers | {"X-Amzn-SageMaker-S3OutputPathExtension": "a/b"})
    assert sent["OutputLocation"] == f"s3://{BUCKET}/inference/output/a/b/one.json"
    assert shop.notification("success")["requestParameters"]["inputLocation"] == location
    assert json.loads(shop.get(sent["OutputLocation"]))["echo"] == {"n": 1}


def test_a_failure_of_the_model_reaches_the_failure_object_and_the_error_topic(shop: Workshop) -> None:
    name = shop.host()
    sent = shop.ask(name, {"fail": True})
    message = shop.notification("error")
    reason = 'Received server error (500) from model with message "{"error": "no picture"}".'
    assert (message["invocationStatus"], message["failureReason"]) == ("Failed", reason)
    assert message["responseParameters"] == {"failureLocation": sent["FailureLocation"]}
    assert json.loads(shop.get(sent["FailureLocation"])) == {"message": reason}
    shop.ask(name, {"sleep": 3}, InvocationTimeoutSeconds="1")
    assert shop.notification("error")["failureReason"] == "Model invocation timed out after 1 seconds."


def test_a_crash_fails_the_request_in_flight_and_the_next_one_is_served_by_a_new_process(shop: Workshop) -> None:
    name = shop.host()
    shop.ask(name, {"die": True}, Inference_Id="fatal")
    shop.ask(name, {"n": 2}, Inference_Id="after")
    failed = shop.notification("error")
    assert failed["inferenceId"] == "fatal"
    assert failed["failureReason"] == "The model container stopped before it answered, exit code: 137."
    assert shop.notification("success")["inferenceId"] == "after"
    assert shop.endpoint(name)["EndpointStatus"] == "InService"


def test_an_endpoint_that_crashes_again_and_again_fails_at_the_limit(make_shop: Any) -> None:
    shop: Workshop = make_shop(restart_limit=2)
    name = shop.host()
    sent = [shop.ask(name, {"die": True}) for _ in range(4)]
    assert shop.reaches_status(name, "Failed")["FailureReason"].startswith("The container stopped again and again.")
    reasons = {m["inferenceId"]: m["failureReason"] for m in (shop.notification("error") for _ in sent)}
    assert reasons[sent[-1]["InferenceId"]] == "The endpoint drawing failed."


def test_a_sleeping_endpoint_has_no_process_and_serves_the_queue_after_waking(shop: Workshop) -> None:
    name = shop.host()
    shop.scale(name, 0)
    with pytest.raises(SageMakerError, match="its status is Updating"):
        shop.scale(name, 1)
    assert shop.in_service(name)["ProductionVariants"][0]["CurrentInstanceCount"] == 0
    assert not leftovers(shop.directory)
    sent = shop.ask(name, {"n": 1})
    time.sleep(0.3)
    assert not shop.keys("inference/output")
    shop.scale(name, 1)
    assert shop.notification("success")["inferenceId"] == sent["InferenceId"]
    assert shop.instances(name) == 1


def test_a_request_that_waits_longer_than_its_time_to_live_expires(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = shop.host()
    shop.scale(name, 0)
    shop.in_service(name)
    shop.ask(name, {"n": 1}, RequestTTLSeconds="60")
    real = time.time
    monkeypatch.setattr("dreamdrop.local.sagemaker.async_queue.time.time", lambda: real() + 61)
    assert "expired" in shop.notification("error")["failureReason"]


def test_a_bad_asynchronous_request_is_refused(shop: Workshop) -> None:
    with pytest.raises(SageMakerError, match="not found"):
        shop.engine.invoke_async("nowhere", {}, b"x")
    name = shop.host()
    refusals: list[tuple[bytes, dict[str, str], str]] = [
        (b"", {}, "exactly one"),
        (b"x", {"InputLocation": "s3://data/x"}, "exactly one"),
        (b"x" * 128_001, {}, "length <= 128000"),
        (b"x", {"RequestTTLSeconds": "59"}, "valid min value: 60"),
        (b"x", {"RequestTTLSeconds": "21601"}, "value <= 21600"),
        (b"x", {"InvocationTimeoutSeconds": "soon"}, "not a number"),
        (b"x", {"Inference-Id": "i" * 65}, "length <= 64"),
        (b"x", {"Filename": "a.b.c"}, "regular expression"),
        (b"x", {"S3OutputPathExtension": "../up"}, "must not leave"),
    ]
    for body, headers, message in refusals:
        with pytest.raises(SageMakerError, match=message) as refusal:
            shop.engine.invoke_async(name, {f"x-amzn-sagemaker-{k}": v for k, v in headers.items()}, body)
        assert refusal.value.code == "ValidationError"


def test_an_update_switches_to_the_new_model_and_a_broken_one_is_rolled_back(shop: Workshop) -> None:
    name = shop.host()
    shop.engine.call(
        "UpdateEndpoint", {"EndpointName": name, "EndpointConfigName": shop.configure("second", weights="v2")}
    )
    assert shop.endpoint(name)["EndpointStatus"] == "Updating"
    assert shop.in_service(name)["EndpointConfigName"] == "second"
    sent = shop.ask(name, {})
    shop.notification("success")
    assert json.loads(shop.get(sent["OutputLocation"]))["model"] == "v2"
    eventually(lambda: len(leftovers(shop.directory)) == 1)
    broken = shop.configure("broken", environment={"BROKEN": "1"})
    shop.engine.call("UpdateEndpoint", {"EndpointName": name, "EndpointConfigName": broken})
    endpoint = shop.in_service(name)
    assert endpoint["EndpointConfigName"] == "second"
    assert "the model does not fit" in endpoint["FailureReason"]


def test_an_update_is_not_over_before_it_began(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its status and its aim change at once, also for the thread that looks at them all the time."""
    name = shop.host()
    second = shop.configure("second", weights="v2")
    store = shop.engine._endpoints.store
    write = store.update

    def slow_write(name: str, **changes: Any) -> Any:
        record = write(name, **changes)
        if changes["EndpointStatus"] == "Updating":
            time.sleep(0.5)
        return record

    monkeypatch.setattr(store, "update", slow_write)
    shop.engine.call("UpdateEndpoint", {"EndpointName": name, "EndpointConfigName": second})
    assert shop.endpoint(name)["EndpointStatus"] == "Updating"
    assert shop.in_service(name)["EndpointConfigName"] == "second"


def test_a_request_that_was_taken_and_not_yet_sent_when_its_process_ends_is_served_by_the_next(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = shop.host()
    taken, ending = threading.Event(), threading.Event()
    read, stop = AsyncDelivery._input, ContainerProcess.stop

    def slow_read(self: AsyncDelivery, request: Any) -> bytes:
        taken.set()
        assert ending.wait(15)
        return read(self, request)

    def slow_stop(self: ContainerProcess, grace_seconds: float) -> None:
        ending.set()
        time.sleep(0.5)
        stop(self, 0)

    monkeypatch.setattr(AsyncDelivery, "_input", slow_read)
    monkeypatch.setattr(ContainerProcess, "stop", slow_stop)
    sent = shop.ask(name, {"sleep": 1})
    assert taken.wait(15)
    shop.engine.call(
        "UpdateEndpoint", {"EndpointName": name, "EndpointConfigName": shop.configure("second", weights="v2")}
    )
    assert shop.notification("success")["inferenceId"] == sent["InferenceId"]
    assert json.loads(shop.get(sent["OutputLocation"]))["model"] == "v2"


def test_an_endpoint_whose_program_does_not_start_fails_with_the_end_of_its_log_and_can_be_deleted(
    shop: Workshop,
) -> None:
    shop.configure("broken", environment={"BROKEN": "1"})
    shop.engine.call("CreateEndpoint", {"EndpointName": "e", "EndpointConfigName": "broken"})
    assert "the model does not fit" in shop.reaches_status("e", "Failed")["FailureReason"]
    with pytest.raises(SageMakerError, match="already existing endpoint"):
        shop.engine.call("CreateEndpoint", {"EndpointName": "e", "EndpointConfigName": "broken"})
    shop.engine.call("DeleteEndpoint", {"EndpointName": "e"})
    eventually(lambda: not shop.engine.call("ListEndpoints", {})["Endpoints"])
    with pytest.raises(SageMakerError, match=f"Could not find endpoint .*{ACCOUNT}:endpoint/e"):
        shop.endpoint("e")


def test_a_real_time_endpoint_answers_at_once_from_an_archive(shop: Workshop, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("weights.txt")
        member.size = 2
        archive.addfile(member, io.BytesIO(b"v9"))
    shop.put("model.tar.gz", buffer.getvalue())
    container = {"Image": f"{IMAGE}server", "ModelDataUrl": f"s3://{BUCKET}/model.tar.gz"}
    shop.engine.call("CreateModel", {"ModelName": "m", "PrimaryContainer": container, "ExecutionRoleArn": ROLE})
    variant = {"VariantName": "all", "ModelName": "m", "InitialInstanceCount": 1, "InstanceType": "ml.g5.xlarge"}
    shop.engine.call("CreateEndpointConfig", {"EndpointConfigName": "c", "ProductionVariants": [variant]})
    shop.engine.call("CreateEndpoint", {"EndpointName": "e", "EndpointConfigName": "c"})
    shop.in_service("e")
    status, headers, body = shop.engine.invoke("e", b"{}", {"Content-Type": "application/json"})
    assert (status, headers["content-type"], json.loads(body)["model"]) == (200, "application/json", "v9")
    with pytest.raises(SageMakerError, match="no picture") as failure:
        shop.engine.invoke("e", b'{"fail": 1}', {"Content-Type": "application/json"})
    assert (failure.value.code, failure.value.status) == ("ModelError", 424)


def test_an_idle_endpoint_with_a_scalable_target_scales_to_zero_and_a_backlog_wakes_it(make_shop: Any) -> None:
    shop: Workshop = make_shop(idle_seconds=0.5, wake_after_seconds=0.5)
    name = shop.host()
    where = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/all",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    scaling = shop.engine.autoscaling
    steps = {"AdjustmentType": "ChangeInCapacity", "StepAdjustments": [{"ScalingAdjustment": 1}]}
    policy = {**where, "PolicyName": "wake", "PolicyType": "StepScaling", "StepScalingPolicyConfiguration": steps}
    with pytest.raises(SageMakerError) as refusal:
        scaling.call("PutScalingPolicy", policy)
    assert refusal.value.code == "ObjectNotFoundException"
    time.sleep(0.8)
    assert shop.instances(name) == 1
    scaling.call("RegisterScalableTarget", {**where, "MinCapacity": 0, "MaxCapacity": 1})
    eventually(lambda: shop.instances(name) == 0)
    assert shop.in_service(name)
    sent = shop.ask(name, {})
    time.sleep(0.8)
    assert shop.instances(name) == 0
    scaling.call("PutScalingPolicy", policy)
    assert shop.notification("success")["inferenceId"] == sent["InferenceId"]
    described = scaling.call("DescribeScalableTargets", {"ServiceNamespace": "sagemaker"})["ScalableTargets"]
    assert [(t["ResourceId"], t["MinCapacity"]) for t in described] == [(where["ResourceId"], 0)]
    scaling.call("DeregisterScalableTarget", where)
    assert scaling.call("DescribeScalingPolicies", {"ServiceNamespace": "sagemaker"}) == {"ScalingPolicies": []}
