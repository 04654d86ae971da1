"""From a request to delete a subject to its last byte: queue -> function."""

from __future__ import annotations

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from contracts.environment import DeletionEnvironment
from infra.constructs.functions import Functions
from infra.constructs.messaging import consume, dead_letter_queue, work_queue
from infra.grants import put_off, send

# What is not done by then goes on in another turn; a message whose function died, after six times it.
TIMEOUT_SECONDS = 300


class SubjectDeletion(Construct):
    def __init__(self, scope: Construct, id: str, *, functions: Functions, machine: sfn.StateMachine) -> None:
        super().__init__(scope, id)
        self.dead_letters = dead_letter_queue(self, "DeadLetters", key=functions.key)
        self.queue = work_queue(
            self, "Queue", timeout_seconds=TIMEOUT_SECONDS, dead_letters=self.dead_letters, key=functions.key
        )
        self.delete_subject = functions.create(
            self,
            "DeleteSubject",
            handler="lambdas.deletion.delete_subject.handler",
            environment=DeletionEnvironment(
                **functions.store,
                resource_prefix=functions.prefix,
                state_machine_arn=machine.state_machine_arn,
                deletion_queue_url=self.queue.queue_url,
            ),
            timeout_seconds=TIMEOUT_SECONDS,
        )
        # One at a time: each has the function's whole time.
        consume(self.queue, self.delete_subject, key=functions.key, batch_size=1)
        send(self.queue, functions.key, self.delete_subject)
        put_off(self.queue, self.delete_subject)
        machine.grant_execution(self.delete_subject, "states:StopExecution")
        jobs = Stack.of(self).format_arn(
            service="sagemaker", resource="training-job", resource_name=f"{functions.prefix}-*"
        )
        self.delete_subject.add_to_role_policy(
            iam.PolicyStatement(
                actions=["sagemaker:DescribeTrainingJob", "sagemaker:StopTrainingJob"], resources=[jobs]
            )
        )
