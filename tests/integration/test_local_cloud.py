"""The local cloud as a whole, with IAM enforced, on a small application of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from dreamdrop.deployment import Deployment, NoDeployment
from dreamdrop.local import process
from dreamdrop.local.errors import LocalCloudError
from dreamdrop.local.memory import tree_pids
from dreamdrop.local.plugins.fault_injection import CONTROL_PATH
from dreamdrop.local.process import LocalCloudProcess
from tests.integration.small_app import data_template, resource, service_template, write_assembly


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(read: Callable[[], Any], seconds: float = 12) -> Any:
    """The first true answer of `read`."""
    end = time.monotonic() + seconds
    while not (value := read()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)
    return value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local-cloud")
    write_assembly(folder / "cdk.out", data=data_template(), service=service_template())
    return folder


def decisions(folder: Path) -> Path:
    return folder / "decisions.jsonl"


@pytest.fixture(scope="module")
def cloud(folder: Path) -> Iterator[LocalCloudProcess]:
    with process.start(
        folder / "cdk.out", folder / "state", free_port(), auth=True, decisions=decisions(folder)
    ) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def deployment(cloud: LocalCloudProcess) -> Deployment:
    return cloud.deployment()


class Machine:
    def __init__(self, deployment: Deployment) -> None:
        self._states = deployment.client("stepfunctions")
        self._arn = deployment.state_machine_arn
        self.rows = (
            deployment.session().resource("dynamodb", endpoint_url=deployment.endpoint_url).Table(deployment.table_name)
        )

    def start(self, kind: str, name: str | None = None, **more: Any) -> str:
        name = name or f"{kind}-{uuid.uuid4().hex[:8]}"
        body = json.dumps({"kind": kind, "name": name, **more})
        return str(self._states.start_execution(stateMachineArn=self._arn, name=name, input=body)["executionArn"])

    def train(self, name: str, todo: str, role: str, **more: Any) -> str:
        job = {
            **more,
            "TrainingJobName": name,
            "RoleArn": role,
            "AlgorithmSpecification": {"TrainingImage": "repository:painter", "TrainingInputMode": "File"},
            "HyperParameters": {"do": todo},
            "OutputDataConfig": {"S3OutputPath": "s3://small-data/models/"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        }
        return self.start("train", name, training_job=job)

    def status(self, arn: str) -> dict[str, Any]:
        return dict(self._states.describe_execution(executionArn=arn))

    def end(self, arn: str) -> dict[str, Any]:
        eventually(lambda: self.status(arn)["status"] != "RUNNING")
        return self.status(arn)

    def stop(self, arn: str) -> None:
        self._states.stop_execution(executionArn=arn, cause="enough")

    def row(self, key: str, seconds: float = 12) -> dict[str, Any]:
        return dict(eventually(lambda: self.rows.get_item(Key={"pk": key}).get("Item"), seconds))


@pytest.fixture(scope="module")
def machine(deployment: Deployment) -> Machine:
    return Machine(deployment)


def test_the_outputs_tell_the_client_everything(cloud: LocalCloudProcess, deployment: Deployment) -> None:
    assert deployment.api_url == f"{deployment.endpoint_url}/_aws/execute-api/abc123/$default"
    assert deployment.data_bucket == "small-data"
    assert process.status(cloud.state) is not None


def test_a_dropped_file_reaches_the_function_through_rule_and_delayed_queue(
    deployment: Deployment, machine: Machine
) -> None:
    deployment.client("s3").put_object(Bucket="small-data", Key="datasets/cat/1.png", Body=b"x")
    row = machine.row("datasets/cat/1.png")
    assert row["status"] == "dropped"
    assert int(row["received"]) - int(row["sent"]) >= 900, "the queue's delay is the quiet period"


def test_a_message_that_fails_is_set_aside_after_its_attempts_and_the_others_are_done(
    deployment: Deployment, machine: Machine
) -> None:
    topic = deployment.client("sns")
    for name in ("told-1", "poison", "told-2"):
        topic.publish(TopicArn=deployment.subject_topic_arn, Message=json.dumps({"name": name}))
    assert machine.row("told-1")["status"] == machine.row("told-2")["status"] == "told"
    queues = deployment.client("sqs")
    url = queues.get_queue_url(QueueName="small-dead")["QueueUrl"]

    def set_aside() -> list[dict[str, str]]:
        messages = queues.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        return [found for found in (json.loads(message["Body"]) for message in messages) if "name" in found]

    assert eventually(set_aside) == [{"name": "poison"}]  # beside what a slow machine may have given up on


def test_a_payload_goes_through_a_function_and_back_with_its_nulls(machine: Machine) -> None:
    ended = machine.end(machine.start("plain", nothing=None, deep={"nothing": None, "list": [None, 1]}))
    assert ended["status"] == "SUCCEEDED"
    output = json.loads(ended["output"])
    assert output["worked"] is True
    assert output["deep"] == {"nothing": None, "list": [None, 1]}
    assert output["nothing"] is None


def test_an_error_is_retried_by_its_class(machine: Machine) -> None:
    assert machine.end(machine.start("flaky"))["status"] == "SUCCEEDED"


def test_an_error_is_caught_by_its_class_and_merged_into_the_payload(machine: Machine) -> None:
    ended = machine.end(machine.start("broken", "caught"))
    assert (ended["status"], ended["error"]) == ("FAILED", "Broken")
    assert json.loads(ended["cause"])["errorMessage"] == "as asked"
    row = machine.row("caught")
    assert row["status"] == "FAILED"
    assert json.loads(row["input"])["kind"] == "broken"


@pytest.mark.parametrize("kind", ["undecided", "vague"])
def test_a_condition_that_is_not_a_boolean_fails_the_execution(machine: Machine, kind: str) -> None:
    assert machine.end(machine.start(kind))["error"] == "States.QueryEvaluationError"


def test_a_machine_that_takes_too_long_times_out_and_stays_so(machine: Machine) -> None:
    arn = machine.start("slow", "too-slow", seconds=7)
    assert machine.end(arn)["status"] == "TIMED_OUT"
    assert machine.row("too-slow")["status"] == "TIMED_OUT"


def test_a_running_execution_is_started_only_once_and_a_stopped_one_stays_stopped(machine: Machine) -> None:
    arn = machine.start("slow", "once", seconds=2)
    assert machine.start("slow", "once", seconds=2) == arn
    with pytest.raises(ClientError, match="ExecutionAlreadyExists"):
        machine.start("slow", "once", seconds=1)
    machine.stop(arn)
    assert machine.row("once")["status"] == "ABORTED"
    with pytest.raises(ClientError, match="ExecutionAlreadyExists"):
        machine.start("slow", "once", seconds=2)
    assert machine.status(arn)["status"] == "ABORTED"


def test_a_state_calls_sagemaker_with_a_whole_expression_as_arguments(machine: Machine) -> None:
    ended = machine.end(machine.start("call", request={"MaxResults": 5}))
    assert json.loads(ended["output"]) == {"TrainingJobSummaries": []}


@pytest.fixture(scope="module")
def role(deployment: Deployment) -> str:
    settings = deployment.client("lambda").get_function_configuration(FunctionName="small-work")
    return str(settings["Role"])


def test_a_state_trains_and_gets_the_finished_job(deployment: Deployment, machine: Machine, role: str) -> None:
    ended = machine.end(machine.train("job-good", "finish", role))
    assert ended["status"] == "SUCCEEDED", ended.get("cause")
    job = json.loads(ended["output"])
    assert job["TrainingJobStatus"] == "Completed"
    assert isinstance(job["TrainingEndTime"], int)
    assert job["TrainingEndTime"] > 1_000_000_000_000, "Step Functions gives milliseconds"
    bucket, _, key = job["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://").partition("/")
    assert deployment.client("s3").head_object(Bucket=bucket, Key=key)["ContentLength"] > 0


def test_a_training_job_that_fails_says_why_in_the_cause(machine: Machine, role: str) -> None:
    ended = machine.end(machine.train("job-bad", "fail", role))
    assert ended["error"] == "States.TaskFailed"
    assert "out of paint" in json.loads(ended["cause"])["FailureReason"]


def test_a_stopped_execution_stops_its_training_job(deployment: Deployment, machine: Machine, role: str) -> None:
    jobs = deployment.client("sagemaker")

    def status() -> str:
        listed = jobs.list_training_jobs(NameContains="job-cut")["TrainingJobSummaries"]
        return listed[0]["TrainingJobStatus"] if listed else "none"

    arn = machine.train("job-cut", "wait", role)
    eventually(lambda: status() == "InProgress")
    machine.stop(arn)
    eventually(lambda: status() == "Stopped")
    time.sleep(0.5)
    assert machine.status(arn)["status"] == "ABORTED"


def test_a_function_may_do_only_what_its_role_allows_and_the_decision_is_written_down(
    deployment: Deployment, folder: Path
) -> None:
    answer = deployment.client("lambda").invoke(FunctionName="small-overstep")["Payload"].read()
    assert b"AccessDenied" in answer
    assert b"sagemaker:ListTrainingJobs" in answer
    written = [json.loads(line) for line in decisions(folder).read_text().splitlines()]
    [denied] = [one for one in written if "small-overstep" in one["principal"]]
    assert (denied["action"], denied["resource"], denied["allowed"]) == ("sagemaker:ListTrainingJobs", "*", False)


def test_a_state_may_do_only_what_the_role_of_its_machine_allows(machine: Machine, role: str) -> None:
    ended = machine.end(machine.start("overstep"))
    assert ended["error"] == "Lambda.AWSLambdaException"
    assert "is not authorized to perform: lambda:InvokeFunction" in ended["cause"]
    ended = machine.end(machine.train("job-tagged", "finish", role, Tags=[{"Key": "k", "Value": "v"}]))
    assert ended["error"] == "SageMaker.AmazonSageMakerException"
    assert "is not authorized to perform: sagemaker:AddTags" in ended["cause"]


def test_an_unsigned_request_is_refused_by_sagemaker(deployment: Deployment) -> None:
    anonymous = boto3.client(
        "sagemaker",
        endpoint_url=deployment.endpoint_url,
        region_name=deployment.region,
        config=Config(signature_version=UNSIGNED),
    )
    with pytest.raises(ClientError, match=r"[Aa]uthentication"):
        anonymous.list_training_jobs()


def test_application_auto_scaling_answers(deployment: Deployment) -> None:
    scaling = deployment.client("application-autoscaling")
    assert scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []


def test_an_ordinary_cloud_has_no_door_for_faults(deployment: Deployment) -> None:
    url = f"{deployment.endpoint_url}{CONTROL_PATH}"
    for method in ("GET", "PUT", "DELETE"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(url, b"[]", method=method))
        assert refused.value.code in (403, 404)


def test_memory_of_the_whole_cloud_is_measured(cloud: LocalCloudProcess) -> None:
    assert 50_000_000 < cloud.rss_bytes() < 1_500_000_000


def test_after_a_restart_everything_is_there_and_what_was_running_is_told_as_failed(
    folder: Path, cloud: LocalCloudProcess, machine: Machine
) -> None:
    """Runs last: it ends the module's cloud."""
    before = cloud.deployment()
    machine.rows.put_item(Item={"pk": "kept"})
    before.client("s3").put_object(Bucket="small-data", Key="kept.txt", Body=b"kept")
    cut_off = machine.start("slow", "cut-off", seconds=600)
    family = tree_pids(cloud.pid)
    start = time.monotonic()
    cloud.stop()
    assert time.monotonic() - start < 6
    for pid in family:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(NoDeployment):
        cloud.deployment()

    port = int(str(before.endpoint_url).rpartition(":")[2])
    with process.start(folder / "cdk.out", folder / "state", port, auth=True) as again:
        assert again.deployment() == before
        revived = Machine(again.deployment())
        assert revived.row("kept", 1) == {"pk": "kept"}
        assert again.deployment().client("s3").get_object(Bucket="small-data", Key="kept.txt")["Body"].read() == b"kept"
        assert revived.status(cut_off)["status"] == "FAILED"
        assert revived.row("cut-off")["status"] == "FAILED"
        assert revived.end(revived.start("plain"))["status"] == "SUCCEEDED"
        again.deployment().client("s3").put_object(Bucket="small-data", Key="datasets/after.png", Body=b"x")
        assert revived.row("datasets/after.png")["status"] == "dropped"


def run_cloud(folder: Path, cdk_out: Path, port: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dreamdrop.local", "--cdk-out", str(cdk_out), "--state", str(folder / "state")]
    return subprocess.run([*command, "--port", str(port)], capture_output=True, text=True, timeout=30)


def test_a_missing_application_is_one_clear_line(tmp_path: Path) -> None:
    finished = run_cloud(tmp_path, tmp_path / "nowhere", free_port())
    assert finished.returncode == 1
    assert finished.stderr.count("\n") == 1
    assert "nowhere holds no synthesized application" in finished.stderr
    assert "make synth" in finished.stderr


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finished = run_cloud(tmp_path, tmp_path, port)
    assert finished.returncode == 1
    assert finished.stderr.count("\n") == 1
    assert f"Port {port} is in use" in finished.stderr


def test_a_stack_that_fails_names_the_resource_and_the_reason(tmp_path: Path) -> None:
    bad = {"Resources": {"Odd": resource("Lambda::Url", TargetFunctionArn="nobody", AuthType="NONE")}}
    cdk_out = write_assembly(tmp_path / "cdk.out", bad=bad)
    with pytest.raises(LocalCloudError) as refused:
        process.start(cdk_out, tmp_path / "state", free_port())
    assert "Odd (AWS::Lambda::Url): Lambda function not found: nobody" in str(refused.value)
    assert process.status(tmp_path / "state") is None


def test_impatient_signals_and_the_death_of_the_parent_leave_no_process_behind(folder: Path, tmp_path: Path) -> None:
    for how in ("signals", "parent"):
        state = tmp_path / how
        parent = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys, time; from pathlib import Path; from dreamdrop.local import process\n"
                "process.start(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])); time.sleep(60)",
                *(str(folder / "cdk.out"), str(state), str(free_port())),
            ]
        )
        eventually(lambda state=state: (state / "outputs.json").exists(), 30)
        known = process.status(state)
        assert known
        family = tree_pids(known.pid)
        if how == "signals":
            for _ in range(5):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(known.pid, signal.SIGINT)
                time.sleep(0.2)
        parent.kill()
        parent.wait()
        eventually(lambda state=state: process.status(state) is None, 6)
        assert not set(family) & set(tree_pids(known.pid))


def test_a_detached_cloud_is_ended_by_its_state_folder(folder: Path, tmp_path: Path) -> None:
    assert process.down(tmp_path) is False
    cloud = process.start(folder / "cdk.out", tmp_path, free_port(), detached=True)
    assert process.down(tmp_path) is True
    assert cloud.process.wait(timeout=5) == 0
    assert process.status(tmp_path) is None


def test_a_cloud_that_deploys_nothing_finds_the_stacks_of_the_former_one(folder: Path, tmp_path: Path) -> None:
    port = free_port()
    with process.start(folder / "cdk.out", tmp_path, port) as first:
        deployed = first.deployment()
    with process.start(tmp_path / "no-cdk.out", tmp_path, port, deploy=False) as second:
        assert second.deployment() == deployed
