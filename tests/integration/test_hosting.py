"""Endpoints from their making to their end, against moto: dedicated ones, those that come back, those nobody needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts import errors
from contracts.pipeline import DatasetTaken, EndpointNotice, VersionPublished
from contracts.storage import MAX_BASE_MODEL_LENGTH, MAX_RESOURCE_PREFIX_LENGTH, MAX_SUBJECT_LENGTH, version_prefix
from contracts.training import Hosting
from lambdas.adapters import clients, hosting
from lambdas.adapters.table import Deletions, Subjects
from lambdas.deletion import delete_subject
from lambdas.domain.endpoints import EndpointPlan, OwnSubject
from lambdas.domain.scaling import alarm_names, scalable
from lambdas.hosting import host_model, keep_endpoint
from tests.integration.account import ACCOUNT, BUCKET, REGION, TABLE, Account, Context, fail_once
from tests.integration.api_parts import ARTIST, ASK, OLDER, VERSION, Api, host, publish
from tests.integration.test_deletion import delete

SHARED, OWN = "dreamdrop-tiny", "dreamdrop--dog"
CHANGING = 'Cannot update in-progress endpoint "arn:aws:sagemaker:us-east-1:1:endpoint/e".'
OUR_ROLE = f"arn:aws:iam::{ACCOUNT}:role/inference"


@pytest.fixture(autouse=True)
def submitted(account: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """(endpoint, generation) of what reached an endpoint in service; moto cannot be asked asynchronously."""
    reached: list[tuple[str, str]] = []

    def submit(endpoint_name: str, generation_id: str, _body: str, _accept: str) -> None:
        if status(endpoint_name) != "InService":
            error = {"Error": {"Code": "ValidationError", "Message": "not found"}}
            raise clients.ClientError(error, "InvokeEndpointAsync")  # type: ignore[arg-type]
        reached.append((endpoint_name, generation_id))

    monkeypatch.setattr(hosting, "submit", submit)
    yield reached


def status(endpoint_name: str) -> str | None:
    found = hosting.describe(endpoint_name)
    return found["EndpointStatus"] if found else None


def alarms(endpoint_name: str) -> set[str]:
    found = clients.client("cloudwatch").describe_alarms(AlarmNamePrefix=f"{endpoint_name}-")["MetricAlarms"]
    return {alarm["AlarmName"] for alarm in found}


def instances(endpoint_name: str) -> int:
    found = hosting.describe(endpoint_name)
    assert found is not None
    count: int = found["ProductionVariants"][0]["DesiredInstanceCount"]
    return count


def take_scaling_off(endpoint_name: str) -> None:
    """As an update does."""
    clients.client("cloudwatch").delete_alarms(AlarmNames=[f"{endpoint_name}-wake"])
    clients.client("application-autoscaling").deregister_scalable_target(**scalable(endpoint_name))


def run(version: str) -> DatasetTaken:
    dataset = version.partition("-")[0]
    return DatasetTaken(subject="dog", dataset_id=dataset, run_id=f"dog-{dataset}")


def published(kind: Hosting, version: str = VERSION, **more: Any) -> dict[str, Any]:
    """What HostModel is given."""
    taken = run(version)
    Subjects(TABLE).take(taken, datetime.now(UTC))
    request = {
        "subject": "dog", "base_model": "tiny", "instance_prompt": "a photo of sks dog", "class_prompt": None,
        "hosting": kind, "hyperparameters": {"resolution": 64},
    }  # fmt: skip
    quote = {
        "instance_type": "ml.g5.xlarge", "steps": 1, "seconds": 1, "dollars": 1, "limit_seconds": 1, "limit_dollars": 1
    }  # fmt: skip
    payload = {
        **taken.plain(), "request": request, "instance_images": 1, "class_images": 0, "ignored": [], "quote": quote,
        "version": version, "job_name": "j", "training_job": {}, "artifact_uri": "s3://b/m",
        "artifact_prefix": version_prefix("dog", version), **more,
    }  # fmt: skip
    return VersionPublished.model_validate(payload).plain()


def hosted(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """The loop of the state machine around HostModel."""
    for _ in range(10):
        payload = host_model.handler(payload, context)
        if payload["endpoint_status"] == "InService":
            return payload
    raise AssertionError(payload["endpoint_status"])


def keep(context: Context, account: Account, notice: EndpointNotice | None = None) -> int:
    """Handles the notice, or what is in line; how many there were."""
    if notice is not None:
        bodies = [notice.model_dump_json()]
    else:
        sqs = clients.client("sqs")
        answer = sqs.receive_message(QueueUrl=account.hosting_queue_url, MaxNumberOfMessages=10)
        bodies = [message["Body"] for message in answer.get("Messages", [])]
        sqs.purge_queue(QueueUrl=account.hosting_queue_url)
    records = [
        {"messageId": str(index), "receiptHandle": "h", "body": body, "attributes": {}, "messageAttributes": {},
         "md5OfBody": "", "eventSource": "aws:sqs", "eventSourceARN": "a", "awsRegion": REGION}
        for index, body in enumerate(bodies)
    ]  # fmt: skip
    if records:
        assert keep_endpoint.handler({"Records": records}, context) == {"batchItemFailures": []}
    return len(bodies)


# ---- dedicated


def plan(subject: str | None = None, version: str = VERSION, **more: Any) -> EndpointPlan:
    own = OwnSubject(subject, version, version_prefix(subject, version)) if subject else None
    values: dict[str, Any] = {
        "prefix": "dreamdrop", "base_model": "tiny", "base_model_checksum": "c", "bucket": BUCKET, "image": "image",
        "role_arn": OUR_ROLE, "instance_type": "ml.g4dn.xlarge",
        "success_topic_arn": f"arn:aws:sns:{REGION}:{ACCOUNT}:s",
        "error_topic_arn": f"arn:aws:sns:{REGION}:{ACCOUNT}:e",
    }  # fmt: skip
    return EndpointPlan(**{**values, "subject": own, **more})


def test_no_two_endpoints_have_one_name_and_none_is_too_long() -> None:
    longest = {"prefix": "p" * MAX_RESOURCE_PREFIX_LENGTH, "base_model": "b" * MAX_BASE_MODEL_LENGTH}
    for made in (plan(**longest), plan("s" * MAX_SUBJECT_LENGTH, **longest)):
        assert len(made.config_name) <= 63
    names = [
        plan("tiny").endpoint_name,
        plan().endpoint_name,
        plan("b-tiny", prefix="dream").endpoint_name,
        plan("tiny", prefix="dream-b").endpoint_name,
        plan(prefix="dream-b").endpoint_name,
    ]
    assert len(set(names)) == len(names)
    assert plan("dog").config_name != plan("dog", version=OLDER).config_name


def test_a_dedicated_endpoint_has_its_subject_and_no_network(account: Account, context: Context) -> None:
    done = hosted(published("dedicated"), context)
    assert done["endpoint_name"] == OWN
    assert status(SHARED) is None
    model = plan("dog").model()
    assert model["EnableNetworkIsolation"] is True
    container = model["PrimaryContainer"]
    [own] = container["AdditionalModelDataSources"]
    assert own["ChannelName"] == "subject"
    assert own["S3DataSource"]["S3Uri"] == f"s3://{BUCKET}/{version_prefix('dog', VERSION)}"
    assert container["Environment"] == {"BASE_MODEL_CHECKSUM": "c", "SUBJECT": f"dog@{VERSION}"}
    subject = Subjects(TABLE).one("dog")
    assert subject is not None
    assert (subject.ready, subject.hosting) == (True, "dedicated")
    assert instances(OWN) == 0  # it sleeps


def test_a_subject_that_is_shared_again_loses_its_endpoint_once_it_has_answered(
    account: Account, context: Context, api: Api, submitted: list[tuple[str, str]]
) -> None:
    hosted(published("dedicated", OLDER), context)
    waiting = api.draw(ASK)[1]["id"]
    hosted(published("shared"), context)
    assert api.draw(ASK)[0] == 202
    assert [endpoint for endpoint, _ in submitted] == [OWN, SHARED]
    assert keep(context, account) == 1
    assert status(OWN) == "InService"  # somebody waits
    api.call("DELETE", f"/v1/generations/{waiting}")
    keep(context, account, EndpointNotice(endpoint_name=OWN))
    assert status(OWN) is None
    assert status(SHARED) == "InService"
    models = {model["ModelName"] for model in clients.client("sagemaker").list_models()["Models"]}
    assert not [name for name in models if name.startswith(OWN)]


def test_an_endpoint_that_is_being_made_for_a_shared_subject_is_not_taken_for_one_that_nobody_needs(
    account: Account, context: Context
) -> None:
    hosted(published("shared", OLDER), context)
    assert host_model.handler(published("dedicated"), context)["endpoint_status"] == "Creating"
    keep(context, account, EndpointNotice(endpoint_name=OWN))  # news of it comes before the subject is promoted
    assert status(OWN) == "InService"


@pytest.mark.parametrize("kind", ["shared", "dedicated"])
@pytest.mark.parametrize("run_goes_on", [True, False])
def test_an_endpoint_sleeps_also_when_nobody_heard_that_it_was_made(
    account: Account, context: Context, kind: Hosting, run_goes_on: bool
) -> None:
    """HostModel died between its creation and its own answer."""
    payload, name = published(kind), SHARED if kind == "shared" else OWN
    host_model.handler(payload, context)
    assert instances(name) == 1
    if run_goes_on:
        hosted(payload, context)
    else:
        keep(context, account, EndpointNotice(endpoint_name=name))  # as EventBridge tells of one in service
    assert hosting.scales(name)
    assert instances(name) == 0


@pytest.mark.parametrize(
    ("operation", "times"),
    [
        *(("RegisterScalableTarget", 1), ("UpdateEndpointWeightsAndCapacities", 1)),
        *(("PutScalingPolicy", 1), ("PutScalingPolicy", 2)),
        *(("PutMetricAlarm", 1), ("PutMetricAlarm", 2), ("PutMetricAlarm", 3)),
    ],
)
def test_an_endpoint_sleeps_also_when_its_scaling_failed_halfway(
    account: Account, context: Context, monkeypatch: pytest.MonkeyPatch, operation: str, times: int
) -> None:
    payload = host_model.handler(published("shared"), context)
    with monkeypatch.context() as patch:
        fail_once(patch, operation, "InternalFailure", "later", times)
        with pytest.raises(clients.ClientError):
            hosted(payload, context)
    keep(context, account, EndpointNotice(endpoint_name=SHARED))
    assert instances(SHARED) == 0
    assert hosting.scales(SHARED)
    assert alarms(SHARED) == set(alarm_names(SHARED))


def test_an_endpoint_that_somebody_else_changes_just_then_rests_when_that_has_ended(
    account: Account, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    payload = host_model.handler(published("shared"), context)
    with monkeypatch.context() as patch:
        fail_once(patch, "UpdateEndpointWeightsAndCapacities", "ValidationException", CHANGING)
        assert hosted(payload, context)["endpoint_status"] == "InService"
    assert not hosting.scales(SHARED)
    keep(context, account, EndpointNotice(endpoint_name=SHARED))  # the change has ended
    assert (hosting.scales(SHARED), instances(SHARED)) == (True, 0)


def test_a_failed_endpoint_may_be_gone_before_it_is_removed(account: Account) -> None:
    hosting.delete("dreamdrop-nothing")


def test_nothing_is_made_for_a_subject_that_is_being_deleted(account: Account, context: Context) -> None:
    payload = published("dedicated")
    Deletions(TABLE).request("dog", ARTIST)
    hosted(payload, context)
    assert status(OWN) is None


# ---- coming back


def test_after_destroy_and_deploy_the_first_request_brings_the_endpoint_back(
    account: Account, context: Context, api: Api, submitted: list[tuple[str, str]]
) -> None:
    host("dog")  # the table has stayed
    asked = [api.draw(ASK | {"seed": seed})[1]["id"] for seed in range(3)]
    api.call("DELETE", f"/v1/generations/{asked[1]}")
    assert submitted == []
    assert keep(context, account) == 3
    assert len(clients.client("sagemaker").list_endpoints()["Endpoints"]) == 1
    keep(context, account, EndpointNotice(endpoint_name=SHARED))  # it is in service
    assert submitted == [(SHARED, asked[0]), (SHARED, asked[2])]
    assert instances(SHARED) == 1  # they wait
    keep(context, account, EndpointNotice(endpoint_name=SHARED))  # told twice
    assert len(submitted) == 2
    assert hosting.scales(SHARED)


def test_a_dedicated_endpoint_comes_back_too(account: Account, context: Context) -> None:
    host("dog", hosting="dedicated")
    publish(account, "dog", VERSION)
    keep(context, account, EndpointNotice(endpoint_name=OWN, subject="dog"))
    keep(context, account, EndpointNotice(endpoint_name=OWN))
    assert status(OWN) == "InService"
    assert instances(OWN) == 0  # whoever asked has gone


@pytest.mark.parametrize(
    "notice",
    [
        EndpointNotice(endpoint_name=SHARED),
        EndpointNotice(endpoint_name=SHARED, subject="nobody"),
        EndpointNotice(endpoint_name="dreamdrop-other", subject="dog"),
    ],
)
def test_nothing_is_made_that_no_subject_is_drawn_by(
    account: Account, context: Context, notice: EndpointNotice
) -> None:
    host("dog")
    keep(context, account, notice)
    assert clients.client("sagemaker").list_endpoints()["Endpoints"] == []


@pytest.mark.parametrize("age", [timedelta(minutes=1), timedelta(minutes=16)])
def test_an_endpoint_that_fails_tells_who_waits_and_is_made_again_now_and_then_only(
    account: Account, context: Context, api: Api, monkeypatch: pytest.MonkeyPatch, age: timedelta
) -> None:
    host("dog")
    waiting = api.draw(ASK)[1]["id"]
    keep(context, account)
    failed = {
        **hosting.describe(SHARED),  # type: ignore[dict-item]
        "EndpointStatus": "Failed", "FailureReason": "no quota", "LastModifiedTime": datetime.now(UTC) - age,
    }  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(hosting, "describe", lambda _name: failed)
        keep(context, account, EndpointNotice(endpoint_name=SHARED, subject="dog"))
    told = api.call("GET", f"/v1/generations/{waiting}")[1]
    assert (told["status"], told["error"]["code"]) == ("failed", "hosting_failed")
    assert "no quota" in told["error"]["cause"]
    old = age > keep_endpoint.BETWEEN_TRIES
    assert (status(SHARED) is None) == old
    if old:
        again = clients.client("sqs").get_queue_attributes(
            QueueUrl=account.hosting_queue_url, AttributeNames=["ApproximateNumberOfMessagesDelayed"]
        )
        assert again["Attributes"]["ApproximateNumberOfMessagesDelayed"] == "1"
        keep(context, account, EndpointNotice(endpoint_name=SHARED, subject="dog"))
        assert status(SHARED) == "InService"


def test_a_quota_tells_who_waits_and_its_cure(
    account: Account, context: Context, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    host("dog")
    waiting = api.draw(ASK)[1]["id"]
    with monkeypatch.context() as patch:
        fail_once(patch, "CreateEndpoint", "ResourceLimitExceeded", "The limit is 0 Instances")
        keep(context, account)
    told = api.call("GET", f"/v1/generations/{waiting}")[1]
    assert (told["status"], told["error"]["code"]) == ("failed", "hosting_failed")
    assert "The limit is 0 Instances" in told["error"]["cause"]
    assert "Service Quotas" in told["error"]["cure"]
    keep(context, account, EndpointNotice(endpoint_name=SHARED, subject="dog"))  # whoever asks later is let in again
    assert status(SHARED) == "InService"


def test_news_are_understood_as_eventbridge_tells_them() -> None:
    """Its events come as they are: one that it had to set aside can be sent on."""
    event = {"detail-type": "SageMaker Endpoint State Change", "detail": {"EndpointName": SHARED}}
    assert EndpointNotice.model_validate_json(json.dumps(event)) == EndpointNotice(endpoint_name=SHARED)


def test_a_run_does_not_take_another_deployments_endpoint_for_its_own(account: Account, context: Context) -> None:
    hosting.create(plan(role_arn=f"arn:aws:iam::{ACCOUNT}:role/theirs-inference"))
    with pytest.raises(errors.HostingFailed, match="not this deployment's") as refused:
        host_model.handler(published("shared"), context)
    assert "prefix" in refused.value.cure


def test_another_deployments_endpoint_is_left_alone(account: Account, context: Context) -> None:
    """Whose prefix begins like ours."""
    theirs = plan(prefix="dreamdrop-b", role_arn=f"arn:aws:iam::{ACCOUNT}:role/theirs-inference")
    hosting.create(theirs)
    keep(context, account, EndpointNotice(endpoint_name=theirs.endpoint_name))
    assert not hosting.scales(theirs.endpoint_name)


def test_an_updated_endpoint_that_owes_an_answer_is_not_sent_to_sleep(
    account: Account, context: Context, api: Api
) -> None:
    hosted(published("shared"), context)
    hosting.wake(SHARED)
    waiting = api.draw(ASK)[1]["id"]
    take_scaling_off(SHARED)
    keep(context, account, EndpointNotice(endpoint_name=SHARED))
    assert (hosting.scales(SHARED), instances(SHARED)) == (True, 1)
    take_scaling_off(SHARED)
    api.call("DELETE", f"/v1/generations/{waiting}")
    keep(context, account, EndpointNotice(endpoint_name=SHARED))
    assert instances(SHARED) == 0


def test_a_deleted_subject_takes_its_endpoint_with_it(
    account: Account, context: Context, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delete_subject.time, "sleep", lambda _seconds: None)
    hosted(published("dedicated"), context)
    clients.client("sagemaker").create_training_job(  # that of the run, long ended
        TrainingJobName=f"dreamdrop-dog-{VERSION}", RoleArn=OUR_ROLE,
        AlgorithmSpecification={"TrainingImage": "image", "TrainingInputMode": "File"},
        OutputDataConfig={"S3OutputPath": "s3://photos/models/"},
        ResourceConfig={"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )  # fmt: skip
    assert api.call("DELETE", "/v1/subjects/dog")[0] == 202
    assert delete(account, context) == {"batchItemFailures": []}
    assert status(OWN) is None
    assert clients.client("sagemaker").list_models()["Models"] == []
    assert api.call("GET", "/v1/subjects/dog")[0] == 404
