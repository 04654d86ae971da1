"""Training jobs and the life of the local SageMaker: real processes, against S3, SNS and SQS over HTTP."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from typing import Any

import pytest
from botocore.model import Shape

from dreamdrop.local.sagemaker import SageMakerError
from dreamdrop.local.sagemaker.validation import compile_pattern, operation_model
from lambdas.adapters.leftovers import is_running, stop_job
from tests.integration.sagemaker_harness import BUCKET, IMAGE, Workshop, eventually, leftovers
from tests.integration.test_hosting_updates import Engine

pytest_plugins = ["tests.integration.sagemaker_fixtures"]


def channel(name: str, prefix: str) -> dict[str, Any]:
    source = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/{prefix}"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def test_a_job_trains_on_its_channels_and_its_model_is_a_prefix(shop: Workshop) -> None:
    shop.put("photos/a.png")
    shop.put("photos/class_data_dir/b.png")
    definitions = [{"Name": "loss", "Regex": "loss=([0-9.]+);"}]
    algorithm = {"TrainingImage": f"{IMAGE}trainer", "TrainingInputMode": "File", "MetricDefinitions": definitions}
    shop.train("dog", InputDataConfig=[channel("training", "photos/")], AlgorithmSpecification=algorithm)
    job = shop.ended("dog")
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Completed", "Completed")
    artifacts = job["ModelArtifacts"]["S3ModelArtifacts"]
    assert artifacts == f"s3://{BUCKET}/models/dog/output/model/"
    model = json.loads(shop.get(artifacts + "nested/model.json"))
    assert model["data"] == ["data/training/a.png", "data/training/class_data_dir/b.png"]
    passed = [step["Status"] for step in job["SecondaryStatusTransitions"]]
    assert passed == ["Starting", "Downloading", "Training", "Uploading", "Completed"]
    assert [(m["MetricName"], m["Value"]) for m in job["FinalMetricDataList"]] == [("loss", 0.25)]
    assert job["TrainingEndTime"] >= job["TrainingStartTime"] >= job["CreationTime"]
    assert job["BillableTimeInSeconds"] == job["TrainingTimeInSeconds"] >= 1
    kind, detail, resources = shop.events[-1]
    assert kind == "SageMaker Training Job State Change"
    assert (detail["TrainingJobStatus"], resources) == ("Completed", [job["TrainingJobArn"]])
    assert detail["CreationTime"] == int(job["CreationTime"] * 1000)
    folder = shop.directory / "work/jobs/dog"
    eventually(lambda: [entry.name for entry in folder.iterdir()] == ["log.txt"])  # no photo stays on the disk


def test_a_compressed_model_is_an_archive(shop: Workshop) -> None:
    shop.train("zipped", OutputDataConfig={"S3OutputPath": f"https://s3.us-east-1.amazonaws.com/{BUCKET}/models/"})
    location = shop.ended("zipped")["ModelArtifacts"]["S3ModelArtifacts"]
    assert location == f"s3://{BUCKET}/models/zipped/output/model.tar.gz"
    with tarfile.open(fileobj=io.BytesIO(shop.get(location))) as archive:
        assert "./nested/model.json" in archive.getnames()
    assert shop.keys("models/zipped/") == ["models/zipped/output/model.tar.gz", "models/zipped/output/output.tar.gz"]


def test_the_container_sees_its_role_and_nothing_of_the_host(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "the-developers")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    shop.ended(shop.train("open", Environment={"COLOUR": "red"}))
    shop.ended(shop.train("isolated", EnableNetworkIsolation=True))
    seen = json.loads(shop.get("models/open/output/data/environment.json"))
    assert (seen["COLOUR"], seen["TRAINING_JOB_NAME"]) == ("red", "open")
    assert (seen["AWS_ACCESS_KEY_ID"], seen["AWS_ENDPOINT_URL"]) == ("test", shop.url)
    assert "AWS_SESSION_TOKEN" not in seen
    assert seen["PYTHONPATH"] == str(shop.directory / "images/trainer/opt/program")
    isolated = json.loads(shop.get("models/isolated/output/data/environment.json"))
    assert not [name for name in isolated if name.startswith("AWS_")]


@pytest.mark.parametrize(
    ("hyperparameters", "reason"),
    [
        ({"failure": "out_of_memory: no room."}, "AlgorithmError: out_of_memory: no room., exit code: 3"),
        ({"die": "1"}, "AlgorithmError: See the job's log.txt for more information, exit code: 137"),
    ],
)
def test_a_program_that_fails_fails_the_job_with_its_own_words(
    shop: Workshop, hyperparameters: dict[str, str], reason: str
) -> None:
    job = shop.ended(shop.train("doomed", hyperparameters))
    assert (job["TrainingJobStatus"], job["FailureReason"]) == ("Failed", reason)
    assert not shop.keys("models/doomed/output/model")


def test_a_long_failure_text_is_cut_before_the_exit_code(shop: Workshop) -> None:
    reason = shop.ended(shop.train("wordy", {"failure": "x" * 2400}))["FailureReason"]
    assert len(reason) == 1024
    assert reason.endswith("x, exit code: 3")


def test_a_job_at_its_time_limit_is_stopped_and_keeps_its_model(shop: Workshop) -> None:
    shop.train("slow", {"steps": "100", "pause": "0.1"}, StoppingCondition={"MaxRuntimeInSeconds": 1})
    job = shop.ended("slow")
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert shop.keys("models/slow/output/model")


def test_a_stopped_job_that_ignores_the_signal_is_killed_with_its_children(shop: Workshop) -> None:
    shop.train("deaf", {"steps": "100", "pause": "0.1", "deaf": "1", "child": "1"})
    shop.reaches("deaf", "Training")
    eventually(lambda: len(leftovers(shop.directory)) == 2)
    shop.engine.call("StopTrainingJob", {"TrainingJobName": "deaf"})
    assert shop.job("deaf")["TrainingJobStatus"] == "Stopping"
    assert shop.ended("deaf")["SecondaryStatus"] == "Stopped"
    assert not leftovers(shop.directory)
    with pytest.raises(SageMakerError, match="in status Stopped"):
        shop.engine.call("StopTrainingJob", {"TrainingJobName": "deaf"})


def test_our_functions_stop_a_job_whether_it_runs_has_ended_or_was_never_made(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(shop.engine.call, shop.engine.operations)
    monkeypatch.setattr("lambdas.adapters.leftovers.client", lambda _service: engine)
    shop.train("runs", {"steps": "100", "pause": "0.1"})
    shop.reaches("runs", "Training")
    assert is_running("runs")
    assert stop_job("runs")
    assert shop.ended("runs")["TrainingJobStatus"] == "Stopped"
    assert stop_job("runs")
    assert not is_running("runs")
    assert not is_running("never-made")
    assert not stop_job("never-made")


def test_what_a_program_started_ends_with_it(shop: Workshop) -> None:
    assert shop.ended(shop.train("parent", {"child": "1"}))["TrainingJobStatus"] == "Completed"
    assert not leftovers(shop.directory)


def test_checkpoints_travel_to_s3_while_the_job_runs_and_are_there_at_the_next_start(shop: Workshop) -> None:
    checkpoints = {"S3Uri": f"s3://{BUCKET}/checkpoints/dog/"}
    shop.train("first", {"steps": "40", "pause": "0.05"}, CheckpointConfig=checkpoints)
    shop.reaches("first", "Training")
    eventually(lambda: "checkpoints/dog/step.txt" in shop.keys("checkpoints/"))
    assert shop.job("first")["TrainingJobStatus"] == "InProgress"
    shop.ended("first")
    assert shop.get("checkpoints/dog/step.txt") == b"40"
    shop.ended(shop.train("second", {"steps": "2"}, CheckpointConfig=checkpoints))
    assert json.loads(shop.get("models/second/output/model/nested/model.json"))["first_step"] == 40
    assert shop.get("checkpoints/dog/step.txt") == b"42"


def test_a_job_without_an_instance_fails_with_the_reason_and_starts_nothing(shop: Workshop) -> None:
    shop.engine.disturbances.refuse_instance = lambda job: f"CapacityError: {job['ResourceConfig']['InstanceType']}"
    job = shop.ended(shop.train("job"))
    assert (job["TrainingJobStatus"], job["FailureReason"]) == ("Failed", "CapacityError: ml.g5.xlarge")
    assert "TrainingStartTime" not in job


def test_a_reclaimed_instance_takes_its_disk_with_it_and_the_job_goes_on_from_its_checkpoint(shop: Workshop) -> None:
    reclaims = iter([0.4, 0.4])
    shop.engine.disturbances.reclaim_after = lambda job: next(reclaims, None)
    checkpoints = {"S3Uri": f"s3://{BUCKET}/checkpoints/job"}
    shop.train("job", {"steps": "10", "pause": "0.1"}, CheckpointConfig=checkpoints)
    job = shop.ended("job")
    assert job["TrainingJobStatus"] == "Completed"
    entered = [transition["Status"] for transition in job["SecondaryStatusTransitions"]]
    assert entered.count("Interrupted") == 2
    assert entered.count("Training") == 3
    model = json.loads(shop.get("models/job/output/model/nested/model.json"))
    assert model["first_step"] >= 2, "the third start did not begin at a checkpoint"


def test_one_job_has_the_device_and_the_next_one_waits(shop: Workshop) -> None:
    shop.train("one", {"steps": "100", "pause": "0.1"})
    shop.reaches("one", "Training")
    shop.train("two")
    shop.train("three")
    shop.reaches("two", "Pending")
    shop.engine.call("StopTrainingJob", {"TrainingJobName": "three"})
    assert "TrainingStartTime" not in shop.ended("three")
    assert shop.job("two")["SecondaryStatus"] == "Pending"
    shop.engine.call("StopTrainingJob", {"TrainingJobName": "one"})
    assert shop.ended("two")["TrainingJobStatus"] == "Completed"


def test_a_spot_job_waits_and_runs_within_its_wait_time(shop: Workshop) -> None:
    spot = {
        "EnableManagedSpotTraining": True,
        "StoppingCondition": {"MaxRuntimeInSeconds": 2, "MaxWaitTimeInSeconds": 2},
    }
    shop.train("one", {"steps": "100", "pause": "0.1"})
    shop.reaches("one", "Training")
    shop.train("never-starts", **spot)
    waited = shop.ended("never-starts")
    assert (waited["TrainingJobStatus"], waited["SecondaryStatus"]) == ("Stopped", "MaxWaitTimeExceeded")
    assert "BillableTimeInSeconds" not in waited
    shop.train("starts-late", {"steps": "100", "pause": "0.1"}, **spot)
    shop.reaches("starts-late", "Pending")
    time.sleep(1)
    shop.engine.call("StopTrainingJob", {"TrainingJobName": "one"})
    cut = shop.ended("starts-late")
    assert (cut["TrainingJobStatus"], cut["SecondaryStatus"]) == ("Stopped", "MaxWaitTimeExceeded")
    assert cut["BillableTimeInSeconds"] == cut["TrainingTimeInSeconds"] >= 1
    assert shop.keys("models/starts-late/output/model")


def test_a_key_that_leaves_its_channel_fails_the_job_and_writes_nothing(shop: Workshop) -> None:
    shop.put("evil/../../../../escaped.txt")
    job = shop.ended(shop.train("escape", InputDataConfig=[channel("training", "evil/")]))
    assert job["FailureReason"].startswith("ClientError: Data download failed: the key 'evil/../../../../escaped.txt'")
    assert not list(shop.directory.rglob("escaped.txt"))


def test_an_empty_channel_and_an_unknown_image_fail_the_job(shop: Workshop) -> None:
    empty = shop.ended(shop.train("empty", InputDataConfig=[channel("training", "nothing/")]))
    assert "No S3 objects found under S3 URL 's3://data/nothing/'" in empty["FailureReason"]
    algorithm = {"TrainingImage": f"{IMAGE}gone", "TrainingInputMode": "File"}
    unknown = shop.ended(shop.train("imageless", AlgorithmSpecification=algorithm))
    assert "is not an asset of this app" in unknown["FailureReason"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"TrainingJobName": "bad_name"}, "regular expression pattern"),
        ({"TrainingJobName": "x" * 64}, "length <= 63"),
        ({"HyperParameters": {"prompt": "x" * 2501}}, "length <= 2500"),
        ({"HyperParameters": {"steps": 3}}, "valid types: <class 'str'>"),
        ({"Instance": "none"}, "Unknown parameter"),
        ({"ResourceConfig": {"InstanceType": "ml.toaster", "InstanceCount": 1}}, "enum value set"),
        ({"InputDataConfig": [channel("..", "photos/")]}, "not usable as a directory"),
        ({"CheckpointConfig": {"S3Uri": "s3://data/c", "LocalPath": "/opt/ml/../../etc"}}, "not a directory below"),
        ({"EnableManagedSpotTraining": True}, "MaxWaitTimeInSeconds"),
        (
            {
                "EnableManagedSpotTraining": True,
                "StoppingCondition": {"MaxRuntimeInSeconds": 1, "MaxWaitTimeInSeconds": 1},
                "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "KeepAlivePeriodInSeconds": 60},
            },
            "no warm pools",
        ),
    ],
)
def test_a_request_that_the_service_would_refuse_is_refused(
    shop: Workshop, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(SageMakerError, match=message) as refusal:
        shop.train(**{"name": "refused", **change})
    assert refusal.value.code == "ValidationException"
    assert shop.engine.call("ListTrainingJobs", {})["TrainingJobSummaries"] == []


def test_names_are_unique_and_lists_and_tags_know_what_was_created(shop: Workshop) -> None:
    shop.train("older", Tags=[{"Key": "team", "Value": "toys"}])
    shop.train("newer")
    with pytest.raises(SageMakerError) as refusal:
        shop.train("older")
    assert refusal.value.code == "ResourceInUse"
    first = shop.engine.call("ListTrainingJobs", {"SortOrder": "Descending", "MaxResults": 1})
    assert [job["TrainingJobName"] for job in first["TrainingJobSummaries"]] == ["newer"]
    second = shop.engine.call(
        "ListTrainingJobs", {"SortOrder": "Descending", "MaxResults": 1, "NextToken": first["NextToken"]}
    )
    assert [job["TrainingJobName"] for job in second["TrainingJobSummaries"]] == ["older"]
    assert "NextToken" not in second
    arn = shop.engine.arn("training-job", "older")
    shop.engine.call("AddTags", {"ResourceArn": arn, "Tags": [{"Key": "age", "Value": "2"}]})
    tags = shop.engine.call("ListTags", {"ResourceArn": arn})["Tags"]
    assert [tag["Key"] for tag in tags] == ["team", "age"]
    with pytest.raises(SageMakerError, match="CreateFeatureGroup is not available"):
        shop.engine.call("CreateFeatureGroup", {})


def test_every_pattern_of_the_service_models_is_understood(shop: Workshop) -> None:
    patterns = set()

    def collect(shape: Shape, path: tuple[str, ...]) -> None:
        if "pattern" in shape.metadata:
            patterns.add(shape.metadata["pattern"])
        members = [*getattr(shape, "members", {}).values()]
        members += [getattr(shape, name) for name in ("member", "key", "value") if hasattr(shape, name)]
        for member in members:
            if member.name not in path:
                collect(member, (*path, member.name))

    operations = {"sagemaker": shop.engine.operations, "sagemaker-runtime": ["InvokeEndpointAsync"]}
    operations["application-autoscaling"] = shop.engine.autoscaling.operations
    for service, names in operations.items():
        for name in names:
            shape = operation_model(service, name).input_shape
            assert shape is not None
            collect(shape, ())
    assert len(patterns) > 40
    for pattern in patterns:
        compile_pattern(pattern)


def test_after_a_restart_endpoints_serve_what_was_queued_and_unfinished_jobs_have_failed(shop: Workshop) -> None:
    awake, asleep = shop.host("awake"), shop.host("asleep")
    shop.scale(asleep, 0)
    shop.in_service(asleep)
    waiting = shop.ask(asleep, {"n": 1})
    shop.train("cut-off", {"steps": "100", "pause": "0.1", "deaf": "1"})
    shop.reaches("cut-off", "Training")
    began = time.monotonic()
    shop.restart()
    assert time.monotonic() - began < 6
    job = shop.job("cut-off")
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"] == "InternalServerError: the local cloud was stopped"
    shop.in_service(awake)
    shop.ask(awake, {}, Inference_Id="fresh")
    assert shop.notification("success")["inferenceId"] == "fresh"
    assert shop.instances(asleep) == 0
    shop.scale(asleep, 1)
    assert shop.notification("success")["inferenceId"] == waiting["InferenceId"]


def test_the_next_engine_ends_what_a_killed_one_left_behind(shop: Workshop) -> None:
    base = shop.directory / "work/jobs/orphan"
    base.mkdir(parents=True)
    environment = {"PATH": os.environ["PATH"], "SAGEMAKER_BASE_DIR": str(base)}
    orphan = subprocess.Popen(["sleep", "60"], env=environment, start_new_session=True)
    (shop.directory / f"work/processes/{orphan.pid}.json").write_text(json.dumps({"base": str(base)}))
    shop.restart()
    assert orphan.wait(5) == -9
