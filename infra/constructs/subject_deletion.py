"""From a request to delete a subject to its last byte: queue -> function."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from contracts.environment import DeletionEnvironment
from infra.constructs.functions import Functions
from infra.constructs.messaging import dead_letter_queue, work_queue

TIMEOUT_SECONDS = 900  # the longest: a stopped training job saves what it has before there is nothing more to delete


class SubjectDeletion(Construct):
    def __init__(self, scope: Construct, id: str, *, functions: Functions, machine: sfn.StateMachine) -> None:
        super().__init__(scope, id)
        self.delete_subject = functions.create(
            self,
            "DeleteSubject",
            handler="lambdas.deletion.delete_subject.handler",
            environment=DeletionEnvironment(
                **functions.store, resource_prefix=functions.prefix, state_machine_arn=machine.state_machine_arn
            ),
            timeout_seconds=TIMEOUT_SECONDS,
        )
        machine.grant_execution(self.delete_subject, "states:StopExecution")
        jobs = Stack.of(self).format_arn(
            service="sagemaker", resource="training-job", resource_name=f"{functions.prefix}-*"
        )
        self.delete_subject.add_to_role_policy(
            iam.PolicyStatement(
                actions=["sagemaker:DescribeTrainingJob", "sagemaker:StopTrainingJob"], resources=[jobs]
            )
        )
        self.dead_letters = dead_letter_queue(self, "DeadLetters")
        # One at a time: each has the function's whole time.
        self.queue = work_queue(
            self, "Queue", consumer=self.delete_subject, dead_letters=self.dead_letters, batch_size=1
        )
