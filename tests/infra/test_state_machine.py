"""The definition: its states, where each goes on, and what its expressions give."""

from __future__ import annotations

import json
from typing import Any

import jsonata
import pytest

from contracts.errors import TrainingTimedOut
from contracts.pipeline import CaughtError
from infra.settings import PRODUCTION
from lambdas.domain.failures import classify
from tests.infra.asl import definitions
from tests.infra.synthesis import Synthesis

RECOVERED = ("CheckDataset", "PlanTraining", "Train", "JudgeModel", "PublishModel", "HostModel", "TellReady")
PATH = {
    "CheckDataset": "PlanTraining",
    "PlanTraining": "Train",
    "Train": "IsTrained",
    "JudgeModel": "PublishModel",
    "PublishModel": "HostModel",
    "HostModel": "IsHosted",
    "WaitForEndpoint": "HostModel",
    "TellReady": "Ready",
    "Recover": "ShouldRetry",
    "PauseBeforeRetry": "PlanTraining",
    "TellFailed": "Failed",
}
PASSING_FAULTS = {
    "Unavailable",
    "Runtime.ExitError",
    "Sandbox.Timedout",
    "Lambda.TooManyRequestsException",
    "Lambda.Unknown",
    "Lambda.ClientExecutionTimeoutException",
    "Lambda.ServiceException",
    "Lambda.AWSLambdaException",
    "Lambda.SdkClientException",
}
PLANNED = {"subject": "rex", "training_job": {"TrainingJobName": "dreamdrop-rex-1"}, "attempt": 1}


@pytest.fixture
def machine(production: Synthesis) -> dict[str, Any]:
    (definition,) = definitions(production.service).values()
    return definition


def evaluate(template: str, **states: Any) -> Any:
    assert template.startswith("{% ")
    expression = jsonata.Jsonata.jsonata(template.removeprefix("{% ").removesuffix(" %}"))
    scope = expression.create_frame()
    scope.bind("states", states)
    return expression.evaluate(None, scope)


def test_the_states_follow_one_another_as_designed(machine: dict[str, Any]) -> None:
    states = machine["States"]
    assert machine["StartAt"] == "CheckDataset"
    assert machine["QueryLanguage"] == "JSONata"
    assert set(states) == {*PATH, "IsTrained", "IsHosted", "ShouldRetry", "Ready", "Failed"}
    assert {name: state["Next"] for name, state in states.items() if "Next" in state} == PATH
    assert (states["Ready"]["Type"], states["Failed"]["Type"]) == ("Succeed", "Fail")
    assert states["IsHosted"]["Choices"][0]["Next"] == "TellReady"
    assert states["IsHosted"]["Default"] == "WaitForEndpoint"
    assert states["IsTrained"]["Choices"][0]["Next"] == "JudgeModel"
    assert states["IsTrained"]["Default"] == "Recover"
    assert states["ShouldRetry"]["Choices"][0]["Next"] == "PauseBeforeRetry"
    assert states["ShouldRetry"]["Default"] == "TellFailed"


def test_every_failure_on_the_way_reaches_recover_with_its_error(machine: dict[str, Any]) -> None:
    for name in RECOVERED:
        (catch,) = machine["States"][name]["Catch"]
        assert (catch["ErrorEquals"], catch["Next"]) == (["States.ALL"], "Recover"), name
        error = {"Error": "OutOfMemory", "Cause": "out_of_memory: too big"}
        assert evaluate(catch["Output"], input=PLANNED, errorOutput=error) == {**PLANNED, "error": error}


def test_the_ways_out_of_a_failure_do_not_lead_back_into_it(machine: dict[str, Any]) -> None:
    assert [name for name in ("Recover", "TellFailed") if "Catch" in machine["States"][name]] == []


def test_what_may_pass_is_retried_and_nothing_else(machine: dict[str, Any]) -> None:
    retries = {name: state["Retry"] for name, state in machine["States"].items() if "Retry" in state}
    (train,) = retries.pop("Train")
    assert train["ErrorEquals"] == ["SageMaker.ThrottlingException"]  # turned away: no job was made
    assert train["JitterStrategy"] == "FULL"
    assert {error for retry in retries.values() for one in retry for error in one["ErrorEquals"]} == PASSING_FAULTS


def test_train_sends_the_planned_request_and_nothing_else(machine: dict[str, Any]) -> None:
    train = machine["States"]["Train"]
    assert train["Resource"] == "arn:aws:states:::sagemaker:createTrainingJob.sync"
    assert evaluate(train["Arguments"], input=PLANNED) == PLANNED["training_job"]


@pytest.mark.parametrize("billed", [{"BillableTimeInSeconds": 61, "TrainingTimeInSeconds": 70}, {}])
def test_a_trained_model_is_added_to_the_plan_billed_or_not(machine: dict[str, Any], billed: dict[str, int]) -> None:
    artifacts = {"S3ModelArtifacts": "s3://bucket/models/rex/output/model/"}
    answer = {"TrainingJobStatus": "Completed", "ModelArtifacts": artifacts, **billed}
    merged = evaluate(machine["States"]["Train"]["Output"], input=PLANNED, result=answer)
    seconds = {"billable_seconds": 61, "training_seconds": 70} if billed else {}
    assert merged == {**PLANNED, "artifact_uri": "s3://bucket/models/rex/output/model/", **seconds}
    assert evaluate(machine["States"]["IsTrained"]["Choices"][0]["Condition"], input=merged) is True


def test_a_job_that_was_stopped_is_no_success_even_if_the_integration_says_so(machine: dict[str, Any]) -> None:
    """It has artifacts: SageMaker uploads what there is."""
    answer = {
        "TrainingJobStatus": "Stopped",
        "SecondaryStatus": "MaxRuntimeExceeded",
        "ModelArtifacts": {"S3ModelArtifacts": "s3://bucket/models/rex/output/model/"},
    }
    merged = evaluate(machine["States"]["Train"]["Output"], input=PLANNED, result=answer)
    assert evaluate(machine["States"]["IsTrained"]["Choices"][0]["Condition"], input=merged) is False
    assert isinstance(classify(CaughtError.model_validate(merged["error"])), TrainingTimedOut)


def test_a_retry_waits_as_long_as_recover_says(machine: dict[str, Any]) -> None:
    pause = machine["States"]["PauseBeforeRetry"]
    assert pause["Type"] == "Wait"
    assert evaluate(pause["Seconds"], input={"wait_seconds": 45}) == 45


def test_what_recover_decides_is_laid_over_the_payload(machine: dict[str, Any]) -> None:
    output = machine["States"]["Recover"]["Output"]
    merged = evaluate(output, input=PLANNED, result={"Payload": {"retry": True, "attempt": 2}})
    assert merged == {**PLANNED, "retry": True, "attempt": 2}


def test_the_machine_fails_with_the_code_and_the_cure(machine: dict[str, Any]) -> None:
    failed, told = machine["States"]["Failed"], machine["States"]["TellFailed"]
    failure = {"failure": {"code": "over_budget", "cause": "Too dear.", "cure": "Ask for less."}}
    assert evaluate(told["Output"], input=failure, result={"Payload": {}}) == failure
    assert evaluate(failed["Error"], input=failure) == "over_budget"
    assert evaluate(failed["Cause"], input=failure) == "Too dear. Cure: Ask for less."


@pytest.mark.parametrize(("status", "hosted"), [("InService", True), ("Creating", False), ("Updating", False)])
def test_a_model_is_hosted_once_its_endpoint_is_in_service(machine: dict[str, Any], status: str, hosted: bool) -> None:
    condition = machine["States"]["IsHosted"]["Choices"][0]["Condition"]
    assert evaluate(condition, input={"endpoint_status": status}) is hosted


def test_a_training_that_sagemaker_does_not_end_is_given_up_after_its_own_limits(machine: dict[str, Any]) -> None:
    timeout = machine["States"]["Train"]["TimeoutSeconds"]
    assert PRODUCTION.training_wait_seconds + PRODUCTION.training_max_seconds < timeout < machine["TimeoutSeconds"]


def test_an_execution_ends_in_time_and_is_traced(production: Synthesis, machine: dict[str, Any]) -> None:
    (properties,) = production.properties("AWS::StepFunctions::StateMachine").values()
    assert machine["TimeoutSeconds"] == PRODUCTION.machine_timeout_seconds
    assert properties["TracingConfiguration"] == {"Enabled": True}
    assert properties["LoggingConfiguration"]["Level"] == "ALL"
    assert properties["LoggingConfiguration"]["IncludeExecutionData"] is False
    assert len(json.dumps(machine)) < 1_000_000  # what CreateStateMachine takes
