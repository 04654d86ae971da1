"""What a person should hear of. Each alarm has its section in docs/operations.md, and says so."""

from __future__ import annotations

from collections.abc import Mapping

from aws_cdk import Aws, Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk.aws_cloudwatch_actions import SnsAction
from constructs import Construct

from contracts.metrics import GENERATIONS_FAILED, TRAINING_DOLLARS, UNEXPECTED_ERRORS
from infra.constructs.messaging import topic

PERIOD = Duration.minutes(5)
PICTURES_FAILING = 3  # within a period: one may be the caller's own fault


class Alarms(Construct):
    """Those of each endpoint are made with it, at run time: lambdas/domain/scaling.py."""

    def __init__(self, scope: Construct, id: str, *, key: kms.IKey | None) -> None:
        super().__init__(scope, id)
        self.topic = topic(self, "Topic", key=key)
        self.topic.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[self.topic.topic_arn],
                conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}},
            )
        )

    def watch(
        self, prefix: str, *, dead_letters: Mapping[str, sqs.Queue], machine: sfn.StateMachine, daily_dollars: float
    ) -> None:
        """`dead_letters`: what the messages in each queue were about -> the queue. `daily_dollars`: for training."""
        for about, queue in dead_letters.items():
            self._raise(
                f"{about}NotHandled",
                queue.metric_approximate_number_of_messages_visible(period=PERIOD, statistic="max"),
                f"Messages were set aside in {queue.queue_name}.",
            )
        self._raise(
            "ExecutionsFailed",
            machine.metric_failed(period=PERIOD, statistic="sum"),
            "A training run failed. GET /v1/subjects/{subject} tells the cause and the cure.",
        )
        self._raise(
            "ExecutionsTimedOut",
            machine.metric_timed_out(period=PERIOD, statistic="sum"),
            "A training run did not end in time.",
        )
        self._raise(
            "PicturesFailing",
            own_metric(prefix, GENERATIONS_FAILED, "sum"),
            "Several requests for pictures failed.",
            threshold=PICTURES_FAILING,
        )
        self._raise(
            "TrainingDear",
            own_metric(prefix, TRAINING_DOLLARS, "sum", period=Duration.days(1)),
            f"Training was billed ${daily_dollars:.2f} or more within a day.",
            threshold=daily_dollars,
        )
        self._raise("UnexpectedErrors", own_metric(prefix, UNEXPECTED_ERRORS, "sum"), "The API answered with a 500.")

    def _raise(self, id: str, metric: cloudwatch.IMetric, description: str, threshold: float = 1) -> None:
        alarm = cloudwatch.Alarm(
            self,
            id,
            metric=metric,
            threshold=threshold,
            evaluation_periods=1,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            alarm_description=f"{description} What to do: docs/operations.md, {id}.",
        )
        alarm.add_alarm_action(SnsAction(self.topic))


def own_metric(prefix: str, name: str, statistic: str, period: Duration = PERIOD) -> cloudwatch.Metric:
    return cloudwatch.Metric(
        namespace=prefix,
        metric_name=name,
        dimensions_map={"service": prefix},
        statistic=statistic,
        period=period,
    )
