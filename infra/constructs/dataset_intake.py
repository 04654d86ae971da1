"""From a dropped file to a started execution: S3 event -> rule -> delayed queue -> function."""

from __future__ import annotations

from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from contracts.environment import IntakeEnvironment
from contracts.storage import DATASETS
from infra.constructs.functions import DEFAULT_TIMEOUT_SECONDS, Functions
from infra.constructs.messaging import consume, dead_letter_queue, work_queue


class DatasetIntake(Construct):
    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        functions: Functions,
        bucket: s3.IBucket,
        machine: sfn.StateMachine,
        subject_topic: sns.Topic,
        quiet_period_seconds: int,
    ) -> None:
        super().__init__(scope, id)
        self.take_dataset = functions.create(
            self,
            "TakeDataset",
            handler="lambdas.intake.take_dataset.handler",
            environment=IntakeEnvironment(
                **functions.store,
                state_machine_arn=machine.state_machine_arn,
                subject_topic_arn=subject_topic.topic_arn,
            ),
        )
        self.dead_letters = dead_letter_queue(self, "DeadLetters", key=functions.key)
        self.queue = work_queue(
            self,
            "Queue",
            timeout_seconds=DEFAULT_TIMEOUT_SECONDS,
            dead_letters=self.dead_letters,
            key=functions.key,
            delay_seconds=quiet_period_seconds,
        )
        consume(self.queue, self.take_dataset, key=functions.key)
        events.Rule(
            self,
            "FileDropped",
            event_pattern=events.EventPattern(
                source=["aws.s3"],
                detail_type=["Object Created"],
                detail={"bucket": {"name": [bucket.bucket_name]}, "object": {"key": [{"prefix": DATASETS}]}},
            ),
            targets=[targets.SqsQueue(self.queue, dead_letter_queue=self.dead_letters)],
        )
