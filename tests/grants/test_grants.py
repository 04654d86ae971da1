"""Every granted action is needed: without it the smallest real flow that asks for it fails.

In the order of the file: one cloud, whose subject is made, drawn and deleted along the way.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from contracts.errors import DreamdropError, Interrupted
from contracts.generation import GenerationRequest
from contracts.pipeline import DatasetTaken, EndpointNotice
from contracts.storage import (
    dataset_prefix,
    drawn_item,
    generation_prefix,
    run_id,
    run_item,
    training_job_name,
    version_id,
)
from dreamdrop import api
from lambdas.adapters.spending import Spending
from lambdas.adapters.table import Deletions, Generations, Subjects
from lambdas.domain.scaling import scalable, wake_alarm_name
from tests.cloudformation import CloudFormation, answering
from tests.e2e.conftest import dataset_info, photo, until
from tests.grants.conftest import OWN, PREFIX, READY, SHARED, Bench, denial
from tests.grants.page import PAGE, render
from tests.synthesized import PROJECT

pytestmark = pytest.mark.grants

TURN_SECONDS = 30  # of a deletion: no more than what it keeps for its end, so whatever is still going on ends a turn
ASK = GenerationRequest(subject=READY, prompt="p", num_inference_steps=1, num_images_per_prompt=1)


def taken(subject: str) -> DatasetTaken:
    dataset = uuid4().hex[:12]
    return DatasetTaken(subject=subject, dataset_id=dataset, run_id=run_id(subject, dataset))


def going_on(rows: str, subject: str) -> DatasetTaken:
    """A run that no execution is behind."""
    run = taken(subject)
    Subjects(rows).take(run, datetime.now(UTC))
    return run


def test_intake(bench: Bench) -> None:
    bucket, s3 = bench.cloud.deployment.data_bucket, bench.cloud.s3
    bench.cloud.drop("second", {"a.png": photo(2)})
    good = bench.message("IntakeQueue")
    with bench.admission("IntakeTakeDatasetRole") as admission:
        admission.prove("a dataset is taken", bench.flow("IntakeTakeDataset", good))

        def unusable() -> str:
            s3.put_object(Bucket=bucket, Key=f"{dataset_prefix('My Dog ' + uuid4().hex[:6])}a.png", Body=b"x")
            return bench.invoke("IntakeTakeDataset", bench.message("IntakeQueue"))[1]

        admission.prove("a dataset with an unusable name is told", unusable)
        assert admission.unneeded() == []
    states = bench.client("stepfunctions")
    for execution in bench.cloud.executions():
        if execution["status"] == "RUNNING":
            states.stop_execution(executionArn=execution["executionArn"])


@pytest.mark.parametrize("state", ["CheckDataset", "PlanTraining", "JudgeModel", "PublishModel"])
def test_state(bench: Bench, state: str) -> None:
    with bench.admission(f"Training{state}Role") as admission:
        admission.prove(f"the state {state}", bench.flow(f"Training{state}", bench.state_inputs()[state]))
        assert admission.unneeded() == []


def test_the_states_that_tell(bench: Bench, rows: str) -> None:
    ready = bench.state_inputs()["TellReady"]
    with bench.admission("TrainingTellReadyRole") as admission:
        run = going_on(rows, "told")
        admission.prove("the state TellReady", bench.flow("TrainingTellReady", ready | run.plain()))
        assert admission.unneeded() == []
    failed = {**going_on(rows, "told").plain(), "failure": Interrupted("The run was stopped.").report.model_dump()}
    with bench.admission("TrainingTellFailedRole") as admission:
        admission.prove("the state TellFailed", bench.flow("TrainingTellFailed", failed))
        assert admission.unneeded() == []
    timed_out = going_on(rows, "told")
    Subjects(rows).enter(timed_out, "training", version=version_id(timed_out.dataset_id, 1))
    detail = {"status": "TIMED_OUT", "input": timed_out.model_dump_json()}
    event = event_of("aws.states", "Step Functions Execution Status Change", detail)
    with bench.admission("TrainingCloseExecutionRole") as admission:
        admission.prove("an execution that took too long is closed", bench.flow("TrainingCloseExecution", event))
        assert admission.unneeded() == []


def test_training_is_paid_for(bench: Bench, rows: str) -> None:
    """By who hears first that a job has ended: here of a job that still holds what was reserved for it."""
    name = bench.state_inputs()["Train"]["training_job"]["TrainingJobName"]
    job = job_status(bench, name)
    with bench.admission("TrainingRecoverRole") as admission:
        run = going_on(rows, "told")
        reserve(rows, run)
        error = {"Error": "States.TaskFailed", "Cause": json.dumps(job, default=str)}
        admission.prove("the state Recover", bench.flow("TrainingRecover", {**run.plain(), "error": error}))
        lost = {"Error": "SageMaker.SdkClientException", "Cause": "no answer"}
        asked = {**going_on(rows, "lost").plain(), "training_job": job_request(bench), "error": lost}
        admission.prove("a request for a training job fails", bench.flow("TrainingRecover", asked))
        assert admission.unneeded() == []
    (run,) = Deletions(rows).runs(READY)
    taken = DatasetTaken(subject=READY, dataset_id=run.dataset_id, run_id=run.id)
    item = {name: {"S": value} for name, value in run_item(READY, run.id)._asdict().items()}
    bench.client("dynamodb").update_item(
        TableName=rows, Key=item, UpdateExpression="SET jobs = :none", ExpressionAttributeValues={":none": {"M": {}}}
    )
    reserve(rows, taken)
    event = event_of("aws.sagemaker", "SageMaker Training Job State Change", {"TrainingJobName": name})
    with bench.admission("TrainingSettleTrainingRole") as admission:
        admission.prove("a training job has ended", bench.flow("TrainingSettleTraining", event))
        assert admission.unneeded() == []


def reserve(rows: str, taken: DatasetTaken) -> None:
    assert Spending(rows).reserve(taken, 1, 1.0, budget_dollars=10.0, day=datetime.now(UTC).date())


def event_of(source: str, kind: str, detail: dict[str, str]) -> dict[str, Any]:
    return {
        "version": "0", "id": "1", "detail-type": kind, "source": source, "account": "000000000000",
        "time": "2100-01-01T00:00:00Z", "region": "us-east-1", "resources": [], "detail": detail,
    }  # fmt: skip


def one_state_machine(bench: Bench, state: str) -> Callable[[dict[str, Any]], str]:
    """A machine under the same role that holds one state of the deployed one, without its retries and what follows."""
    states, arn = bench.client("stepfunctions"), bench.cloud.deployment.state_machine_arn
    deployed = states.describe_state_machine(stateMachineArn=arn)
    definition = json.loads(deployed["definition"])
    alone = {k: v for k, v in definition["States"][state].items() if k not in ("Next", "Retry", "Catch")}
    made = states.create_state_machine(
        name=f"only-{state}", roleArn=deployed["roleArn"],
        definition=json.dumps({**definition, "StartAt": state, "States": {state: {**alone, "End": True}}}),
    )["stateMachineArn"]  # fmt: skip
    return lambda payload: str(states.start_execution(stateMachineArn=made, input=json.dumps(payload))["executionArn"])


def job_request(bench: Bench, name: str | None = None, steps: int = 1) -> dict[str, Any]:
    """That of the ready subject, under another name."""
    job = bench.state_inputs()["Train"]["training_job"]
    name = name or f"dreamdrop-{uuid4().hex[:8]}"
    checkpoints = {**job["CheckpointConfig"], "S3Uri": f"{job['CheckpointConfig']['S3Uri']}/{name}"}
    hyperparameters = {**job["HyperParameters"], "max_steps": str(steps)}
    return {**job, "HyperParameters": hyperparameters, "TrainingJobName": name, "CheckpointConfig": checkpoints}


def why(failed: dict[str, Any]) -> str:
    """Its reason, without the names that follow."""
    return str(failed["FailureReason"]).partition(": s3://")[0]


def job_status(bench: Bench, name: str) -> dict[str, Any]:
    job: dict[str, Any] = bench.client("sagemaker").describe_training_job(TrainingJobName=name)
    return job


def stop_jobs(bench: Bench) -> None:
    sagemaker = bench.client("sagemaker")

    def stopped() -> bool:
        going = sagemaker.list_training_jobs(StatusEquals="InProgress")["TrainingJobSummaries"]
        for job in going:
            sagemaker.stop_training_job(TrainingJobName=job["TrainingJobName"])
        return not going

    until("all training jobs have ended", stopped)


def test_the_state_machine(bench: Bench) -> None:
    inputs, states, sagemaker = bench.state_inputs(), bench.client("stepfunctions"), bench.client("sagemaker")
    check, train = one_state_machine(bench, "CheckDataset"), one_state_machine(bench, "Train")

    def end(arn: str) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = states.describe_execution(executionArn=arn)
            return found if found["status"] != "RUNNING" else None

        return until("the execution ends", ended)

    def failure_of(arn: str) -> str:
        ended = end(arn)
        return "" if ended["status"] == "SUCCEEDED" else f"execution failed: {ended['error']}"

    def stop_while_training() -> str:
        job = job_request(bench, steps=100_000)
        name = job["TrainingJobName"]
        arn = train({**inputs["Train"], "training_job": job})
        until("the job is there", lambda: sagemaker.list_training_jobs(NameContains=name)["TrainingJobSummaries"])
        states.stop_execution(executionArn=arn)
        end(arn)
        for _ in range(30):
            if job_status(bench, name)["TrainingJobStatus"] != "InProgress":
                return ""
            time.sleep(0.1)
        stop_jobs(bench)
        return "the job goes on after its execution was stopped"

    with bench.admission("TrainingMachineRole") as admission:
        admission.prove("a state that calls a function", lambda: failure_of(check(inputs["CheckDataset"])))
        admission.prove(
            "the state Train", lambda: failure_of(train({**inputs["Train"], "training_job": job_request(bench)}))
        )
        stop_jobs(bench)
        admission.prove("an execution is stopped while it trains", stop_while_training)
        assert admission.unneeded() == []


def test_the_training_job(bench: Bench) -> None:
    sagemaker = bench.client("sagemaker")

    def train() -> str:
        job = job_request(bench)
        sagemaker.create_training_job(**job)
        name = job["TrainingJobName"]
        until("the job ends", lambda: job_status(bench, name)["TrainingJobStatus"] != "InProgress")
        ended = job_status(bench, name)
        return "" if ended["TrainingJobStatus"] == "Completed" else f"job failed: {why(ended)}"

    with bench.admission("TrainingRole") as admission:
        admission.prove("a training job", train)
        assert admission.unneeded() == []


def set_variable(bench: Bench, function: str, **more: str) -> None:
    functions, name = bench.client("lambda"), bench.named(function)
    known = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    functions.update_function_configuration(FunctionName=name, Environment={"Variables": {**known, **more}})


def remove_shared(bench: Bench) -> None:
    sagemaker = bench.client("sagemaker")
    sagemaker.delete_endpoint(EndpointName=SHARED)
    bench.until_endpoint_is("")
    for one in sagemaker.list_endpoint_configs(NameContains=f"{SHARED}-")["EndpointConfigs"]:
        sagemaker.delete_endpoint_config(EndpointConfigName=one["EndpointConfigName"])
    for one in sagemaker.list_models(NameContains=f"{SHARED}-")["Models"]:
        sagemaker.delete_model(ModelName=one["ModelName"])


def take_scaling_off(bench: Bench) -> None:
    bench.client("cloudwatch").delete_alarms(AlarmNames=[wake_alarm_name(SHARED)])
    service = bench.client("application-autoscaling")
    with suppress(service.exceptions.ObjectNotFoundException):
        service.deregister_scalable_target(**scalable(SHARED))


def host(bench: Bench, payload: dict[str, Any]) -> None:
    """Round by round, as the state machine does."""
    seen: dict[str, Any] = {}

    def promoted() -> bool:
        answer, failure = bench.invoke("HostingHostModel", payload | seen)
        assert failure == ""
        seen.update({name: answer[name] for name in ("endpoint_status", "endpoint_changed")})
        return bool(seen["endpoint_status"] == "InService")

    until("it is hosted", promoted)


def alone(payload: dict[str, Any]) -> dict[str, Any]:
    """The same subject, with an endpoint of its own."""
    return payload | {"request": payload["request"] | {"hosting": "dedicated"}}


def test_hosting(bench: Bench) -> None:
    """As in a deployment whose endpoints sleep from the start; then after one that changed the watermark."""
    payload = bench.state_inputs()["HostModel"]
    set_variable(bench, "HostingHostModel", SLEEP_AFTER_CREATION="True")
    remove_shared(bench)
    with bench.admission("HostingHostModelRole") as admission:
        admission.prove("an endpoint is made", bench.flow("HostingHostModel", payload))
        bench.until_endpoint_is("InService")
        created = payload | {"endpoint_status": "Creating", "endpoint_changed": True}

        def promote() -> str:
            """It is put to sleep on the way, which is done only before it is scaled."""
            bench.until_endpoint_is("InService")
            take_scaling_off(bench)
            return bench.invoke("HostingHostModel", created)[1]

        admission.prove("a version is promoted", promote)
        bench.until_endpoint_is("InService")
        set_variable(bench, "HostingHostModel", WATERMARK="w", SLEEP_AFTER_CREATION="False")
        admission.prove("an endpoint is updated", bench.flow("HostingHostModel", payload))
        until("the update ends", lambda: bench.endpoint_is("InService") or bench.endpoint_is("Failed"))
        fail_to_start(bench)
        admission.prove("a failed endpoint makes way", bench.flow("HostingHostModel", payload))
        bench.until_endpoint_is("")
        host(bench, payload)
        host(bench, alone(payload))
        admission.prove("a subject leaves its own endpoint", bench.flow("HostingHostModel", payload))
        assert admission.unneeded() == []


def fail_to_start(bench: Bench) -> None:
    """Leaves a failed endpoint behind: its role may read nothing meanwhile."""
    sagemaker = bench.client("sagemaker")
    config = sagemaker.describe_endpoint(EndpointName=SHARED)["EndpointConfigName"]
    sagemaker.delete_endpoint(EndpointName=SHARED)
    bench.until_endpoint_is("")
    with bench.admission("HostingRole"):
        sagemaker.create_endpoint(EndpointName=SHARED, EndpointConfigName=config)
        bench.until_endpoint_is("Failed")


def ask(bench: Bench) -> str:
    return bench.cloud.client.generate(ASK).id


def record(bench: Bench, generation: str) -> None:
    assert bench.invoke("HostingRecordGeneration", bench.notice_of(generation))[1] == ""


def test_keeping(bench: Bench) -> None:
    """First of the endpoint that the subject has left, then of that which it has gone to."""
    payload = bench.state_inputs()["HostModel"]
    host(bench, alone(payload))
    awaited = ask(bench)
    host(bench, payload)
    left = bench.news_of(EndpointNotice(endpoint_name=OWN))

    def retire() -> str:
        """The function goes on to the models only while there is an endpoint."""
        if not bench.endpoint_is("InService", OWN):
            bench.until_endpoint_is("", OWN)
            host(bench, alone(payload))
            host(bench, payload)
        return bench.invoke("KeepingKeepEndpoint", left)[1]

    with bench.admission("KeepingKeepEndpointRole") as admission:
        admission.prove("an endpoint is still waited for", bench.flow("KeepingKeepEndpoint", left))
        record(bench, awaited)
        admission.prove("an endpoint that nobody needs is removed", retire)
        remove_shared(bench)
        waiting = ask(bench)
        asked = bench.news_of(EndpointNotice(endpoint_name=SHARED, subject=READY))
        admission.prove("a missing endpoint is asked for", bench.flow("KeepingKeepEndpoint", asked))
        bench.until_endpoint_is("InService")
        admission.prove("an endpoint is there, for which somebody waits", bench.flow("KeepingKeepEndpoint", asked))
        record(bench, waiting)
        bench.notice_of(waiting)  # it was sent twice: the first time it could not be marked as sent
        set_variable(bench, "KeepingKeepEndpoint", SLEEP_AFTER_CREATION="True")
        take_scaling_off(bench)
        admission.prove("an endpoint is there, for which nobody waits", bench.flow("KeepingKeepEndpoint", asked))
        bench.until_endpoint_is("InService")
        fail_to_start(bench)
        ask(bench)
        admission.prove("an endpoint has failed", bench.flow("KeepingKeepEndpoint", asked))
        assert admission.unneeded() == []


def test_the_endpoint(bench: Bench) -> None:
    """Hosted anew under the same configuration."""
    sagemaker, name = bench.client("sagemaker"), SHARED
    config = sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"]

    def boot() -> str:
        if not bench.endpoint_is(""):
            sagemaker.delete_endpoint(EndpointName=name)
            bench.until_endpoint_is("")
        sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)
        until("it is up or has failed", lambda: bench.endpoint_is("InService") or bench.endpoint_is("Failed"))
        found = sagemaker.describe_endpoint(EndpointName=name)
        return "" if found["EndpointStatus"] == "InService" else f"endpoint failed: {why(found)}"

    def draw() -> str:
        generation = ask(bench)
        sqs, url = bench.client("sqs"), bench.named("HostingAnswers")

        def answered_or_denied() -> bool:
            counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
            told = counts["Attributes"]["ApproximateNumberOfMessages"] != "0"
            return told or bool(bench.decisions.denied(bench.named("HostingRole")))

        until("an answer or a denial", answered_or_denied)
        if bench.decisions.denied(bench.named("HostingRole")):
            return "no notice of a picture comes"
        told = json.loads(bench.notice_of(generation)["Records"][0]["body"])
        return "" if told["invocationStatus"] == "Completed" else f"not drawn: {str(told.get('failureReason'))[:40]}"

    with bench.admission("HostingRole") as admission:
        admission.prove("an endpoint starts", boot)
        admission.prove("a picture is drawn", draw)
        assert admission.unneeded() == []


def test_recording_pictures(bench: Bench, rows: str) -> None:
    bucket, s3 = bench.cloud.deployment.data_bucket, bench.cloud.s3
    generation = ask(bench)
    event = bench.notice_of(generation)
    with bench.admission("HostingRecordGenerationRole") as admission:
        admission.prove("a picture is recorded", bench.flow("HostingRecordGeneration", event))
        assert bench.cloud.client.generation(generation).status == "succeeded"
        Generations(rows).forget(generation)

        def too_late() -> str:
            for name in ("image-0.png", "image-1.png"):
                s3.put_object(Bucket=bucket, Key=generation_prefix(generation) + name, Body=b"x")
            return bench.invoke("HostingRecordGeneration", event)[1]

        admission.prove("a picture of a deleted subject is not kept", too_late)
        assert admission.unneeded() == []


def test_the_api(bench: Bench, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "ATTEMPTS", 1)
    picture = tmp_path / "source.png"
    picture.write_bytes(photo(3))
    client, sagemaker = bench.cloud.client, bench.client("sagemaker")

    def tried(call: Callable[[], object]) -> Callable[[], str]:
        def flow() -> str:
            try:
                call()
            except DreamdropError as error:
                return f"HTTP {error.status}: {error.code}"
            except OSError as error:
                return f"{error}"
            return ""

        return flow

    def draw_asleep() -> None:
        capacities = [{"VariantName": "shared", "DesiredInstanceCount": 0}]
        bench.until_endpoint_is("InService")
        sagemaker.update_endpoint_weights_and_capacities(EndpointName=SHARED, DesiredWeightsAndCapacities=capacities)
        bench.until_endpoint_is("InService")
        client.generate(ASK)
        variant = sagemaker.describe_endpoint(EndpointName=SHARED)["ProductionVariants"][0]
        if variant["DesiredInstanceCount"] == 0:
            raise OSError("the sleeping endpoint is not woken")

    def look_at_a_picture() -> None:
        for picture in client.generation(drawn).images:
            api.fetch(picture.url)

    with bench.admission("ApiFunctionRole") as admission:
        admission.prove("pictures are asked for", tried(draw_asleep))
        drawn = ask(bench)
        bench.until_endpoint_is("InService")
        record(bench, drawn)
        admission.prove("a picture is looked at", tried(look_at_a_picture))
        unwanted = ask(bench)
        admission.prove("a picture is not wanted any more", tried(lambda: client.cancel(unwanted)))
        admission.prove("subjects are listed", tried(client.subjects))
        admission.prove("a source picture is uploaded", tried(lambda: client.upload_source(picture)))
        run = going_on(rows, READY)
        Subjects(rows).enter(run, "training", version=version_id(run.dataset_id, 1))
        admission.prove("a subject is looked at while it trains", tried(lambda: client.subject(READY)))
        admission.prove("a subject is to be deleted", tried(lambda: client.delete("told")))
        assert admission.unneeded() == []


@pytest.fixture
def cloudformation() -> Iterator[CloudFormation]:
    with answering() as answered:
        yield answered


def test_the_end_of_the_stack(bench: Bench, cloudformation: CloudFormation) -> None:
    url, answers = cloudformation
    bench.until_endpoint_is("InService")
    bench.client("sagemaker").create_training_job(**job_request(bench, steps=100_000))
    bench.cloud.drop("third", {"a.png": photo(3), "dataset_info.json": dataset_info(2000)})
    assert bench.invoke("IntakeTakeDataset", bench.message("IntakeQueue"))[1] == ""
    set_variable(bench, "RemovalRemoveEndpoints", IN_FLIGHT_SECONDS="0")
    event = {
        "RequestType": "Delete", "ResponseURL": url, "StackId": "s", "RequestId": "r", "LogicalResourceId": "l",
    }  # fmt: skip

    def remove() -> str:
        bench.invoke("RemovalRemoveEndpoints", event)
        told = answers.pop()
        return "" if told["Status"] == "SUCCESS" else f"stack not deleted: {denial(told['Reason'])}"

    with bench.admission("RemovalRemoveEndpointsRole") as admission:
        admission.prove("the service stack is removed", remove)
        assert admission.unneeded() == []


def test_deletion(bench: Bench, rows: str) -> None:
    """Of the ready subject, which has an endpoint of its own and a run whose job is still going on; in short turns.
    Before it stands the subject whose deletion the API was asked for: what finds a picture of it is broken."""
    broken = bench.received("DeletionQueue")
    item = {name: {"S": value} for name, value in drawn_item("told", "1")._asdict().items()}
    bench.client("dynamodb").put_item(TableName=rows, Item=item)
    host(bench, alone(bench.state_inputs()["HostModel"]))
    (run,) = [one for one in Deletions(rows).runs(READY) if one.stage == "training"]
    job = job_request(bench, training_job_name(PREFIX, READY, str(run.version)), steps=100_000)
    bench.client("sagemaker").create_training_job(**job)
    bench.cloud.client.delete(READY)
    event = bench.message("DeletionQueue")
    bench.client("lambda").update_function_configuration(
        FunctionName=bench.named("DeletionDeleteSubject"), Timeout=TURN_SECONDS
    )

    def delete() -> str:
        while bench.cloud.subject(READY):
            _, failure = bench.invoke("DeletionDeleteSubject", event)
            if failure:
                return failure
        return ""

    def fail() -> str:
        _, failure = bench.invoke("DeletionDeleteSubject", broken)
        assert failure
        return failure if "when calling" in failure else ""

    with bench.admission("DeletionDeleteSubjectRole") as admission:
        admission.prove("a subject is deleted while it trains", delete)
        admission.prove("a deletion fails, and is tried again soon", fail)
        assert admission.unneeded() == []


def test_every_grant_is_proven_or_asked_for_by_a_page_of_aws(bench: Bench) -> None:
    left = [grant for grant in bench.grants if grant.page is None and grant not in bench.ledger.proofs]
    assert left == [], "granted and never asked for: remove it, or write the flow that needs it"


def test_the_page_says_so(bench: Bench) -> None:
    text = render(bench.grants, bench.ledger)
    if os.environ.get("WRITE_GRANTS"):
        (PROJECT / PAGE).write_text(text, encoding="utf-8")
    assert (PROJECT / PAGE).read_text(encoding="utf-8") == text, "write it anew: make test-grants WRITE_GRANTS=1"
