"""What a person should hear of: messages that were set aside, and executions that failed."""

from __future__ import annotations

from aws_cdk import Aws, Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk.aws_cloudwatch_actions import SnsAction
from constructs import Construct

from infra.constructs.messaging import topic

PERIOD = Duration.minutes(5)


class Alarms(Construct):
    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        dead_letters: dict[str, sqs.Queue],
        machine: sfn.StateMachine,
    ) -> None:
        """`dead_letters`: what the messages in each queue were about -> the queue."""
        super().__init__(scope, id)
        self.topic = topic(self, "Topic")
        self.topic.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                actions=["sns:Publish"],
                resources=[self.topic.topic_arn],
                conditions={"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}},
            )
        )
        for about, queue in dead_letters.items():
            self._raise(
                f"{about}NotHandled",
                queue.metric_approximate_number_of_messages_visible(period=PERIOD, statistic="max"),
                f"Messages were set aside in {queue.queue_name}. Read their function's log, then redrive the queue.",
            )
        self._raise(
            "ExecutionsFailed",
            machine.metric_failed(period=PERIOD, statistic="sum"),
            "A training run failed. GET /v1/subjects/{subject} tells the cause and the cure.",
        )
        self._raise(
            "ExecutionsTimedOut",
            machine.metric_timed_out(period=PERIOD, statistic="sum"),
            "A training run did not end in time. See the execution's history.",
        )

    def _raise(self, id: str, metric: cloudwatch.Metric, description: str) -> None:
        alarm = cloudwatch.Alarm(
            self,
            id,
            metric=metric,
            threshold=1,
            evaluation_periods=1,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_OR_EQUAL_TO_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            alarm_description=description,
        )
        alarm.add_alarm_action(SnsAction(self.topic))
