"""The states of the training pipeline, in JSONata. What travels between them is in contracts/pipeline.py."""

from __future__ import annotations

from dataclasses import dataclass

from aws_cdk import Aws, Duration
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

from contracts.errors import Unavailable

DIED = ("Lambda.Unknown", "Runtime.ExitError", "Sandbox.Timedout")  # its process was killed, ended or took too long
INPUT = "{% $states.input %}"
ANSWER = "{% $states.result.Payload %}"
INPUT_WITH_ANSWER = "{% $merge([$states.input, $states.result.Payload]) %}"
WITH_ERROR = '{% $merge([$states.input, {"error": $states.errorOutput}]) %}'
# An expression without a value leaves its key out: a job that never started bills nothing and names no seconds.
# A job that was stopped is no success, whether the integration says so or not.
TRAINED = (
    "{% $merge([$states.input, $states.result.TrainingJobStatus = 'Completed' ? {"
    '"artifact_uri": $states.result.ModelArtifacts.S3ModelArtifacts, '
    '"training_seconds": $states.result.TrainingTimeInSeconds, '
    '"billable_seconds": $states.result.BillableTimeInSeconds'
    '} : {"error": {"Error": "States.TaskFailed", "Cause": $string($states.result)}}]) %}'
)


@dataclass(frozen=True, kw_only=True)
class StateFunctions:
    check_dataset: lambda_.Function
    plan_training: lambda_.Function
    judge_model: lambda_.Function
    publish_model: lambda_.Function
    host_model: lambda_.Function
    tell_ready: lambda_.Function
    recover: lambda_.Function
    tell_failed: lambda_.Function


def training_states(
    scope: Construct, functions: StateFunctions, *, poll_seconds: int, longest_training_seconds: int
) -> sfn.IChainable:
    """longest_training_seconds: from the request to the job's end, whatever the job waits for.

    Every task that can fail hands over to Recover. Recover and TellFailed cannot: that would be a circle; the
    execution fails then, and is closed from outside."""
    check = _call(scope, "CheckDataset", functions.check_dataset)
    plan = _call(scope, "PlanTraining", functions.plan_training)
    train = _train(scope, longest_training_seconds)
    judge = _call(scope, "JudgeModel", functions.judge_model)
    publish = _call(scope, "PublishModel", functions.publish_model)
    host = _call(scope, "HostModel", functions.host_model)
    tell_ready = _call(scope, "TellReady", functions.tell_ready)
    recover = _call(scope, "Recover", functions.recover, output=INPUT_WITH_ANSWER)
    tell_failed = _call(scope, "TellFailed", functions.tell_failed, output=INPUT)

    trained = (
        sfn.Choice.jsonata(scope, "IsTrained")
        .when(sfn.Condition.jsonata("{% $exists($states.input.artifact_uri) %}"), judge)
        .otherwise(recover)
    )
    pause = sfn.Wait.jsonata(scope, "PauseBeforeRetry", time=sfn.WaitTime.seconds("{% $states.input.wait_seconds %}"))
    wait = sfn.Wait.jsonata(scope, "WaitForEndpoint", time=sfn.WaitTime.duration(Duration.seconds(poll_seconds)))
    hosted = (
        sfn.Choice.jsonata(scope, "IsHosted")
        .when(
            sfn.Condition.jsonata("{% $states.input.endpoint_status = 'InService' %}"),
            tell_ready.next(sfn.Succeed.jsonata(scope, "Ready")),
        )
        .otherwise(wait.next(host))
    )
    recover.next(
        sfn.Choice.jsonata(scope, "ShouldRetry")
        .when(sfn.Condition.jsonata("{% $states.input.retry %}"), pause.next(plan))
        .otherwise(tell_failed.next(_failed(scope)))
    )
    for task in (check, plan, judge, publish, host, tell_ready):
        task.add_catch(recover, errors=[sfn.Errors.ALL], outputs=WITH_ERROR)
    judge.next(publish).next(host).next(hosted)
    return check.next(plan).next(train).next(trained)


def _call(scope: Construct, state: str, function: lambda_.Function, output: str = ANSWER) -> tasks.LambdaInvoke:
    """Hands the whole payload to the function, which can be run again at any time: retried is what Lambda itself got
    wrong, and what AWS may do a moment later; not what the function found wrong with the dataset or the model."""
    task = tasks.LambdaInvoke.jsonata(
        scope,
        f"{state}State",
        state_name=state,
        lambda_function=function,
        payload=sfn.TaskInput.from_text(INPUT),
        outputs=output,
        retry_on_service_exceptions=True,
    )
    task.add_retry(
        errors=["Lambda.TooManyRequestsException", Unavailable.__name__],
        interval=Duration.seconds(2),
        max_attempts=8,
        backoff_rate=2,
        max_delay=Duration.minutes(1),
        jitter_strategy=sfn.JitterType.FULL,
    )
    task.add_retry(errors=list(DIED), max_attempts=3, backoff_rate=2)
    return task


def _train(scope: Construct, timeout_seconds: int) -> sfn.CustomState:
    """Raw, because the library's task has no field for CompressionType, CheckpointConfig or an uncompressed model.

    Retried here only when the request was turned away: a job name can be used once. After a failure of the job, or a
    request whose end is not known, Recover plans another attempt under another name.
    """
    return sfn.CustomState(
        scope,
        "Train",
        state_json={
            "Type": "Task",
            "Resource": f"arn:{Aws.PARTITION}:states:::sagemaker:createTrainingJob.sync",
            "Arguments": "{% $states.input.training_job %}",
            "TimeoutSeconds": timeout_seconds,
            "Output": TRAINED,
            "Retry": [
                {
                    "ErrorEquals": ["SageMaker.ThrottlingException"],
                    "IntervalSeconds": 2,
                    "MaxAttempts": 6,
                    "BackoffRate": 2,
                    "JitterStrategy": "FULL",
                }
            ],
            # Not by add_catch: that leaves the output of a raw state's catch out.
            "Catch": [{"ErrorEquals": [sfn.Errors.ALL], "Output": WITH_ERROR, "Next": "Recover"}],
        },
    )


def _failed(scope: Construct) -> sfn.Fail:
    return sfn.Fail.jsonata(
        scope,
        "Failed",
        error="{% $states.input.failure.code %}",
        cause="{% $states.input.failure.cause & ' Cure: ' & $states.input.failure.cure %}",
    )
