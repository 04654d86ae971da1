"""From news of an endpoint to what it needs: EventBridge and the hosting queue -> function."""

from __future__ import annotations

from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from contracts.environment import HostEnvironment
from infra.constructs.functions import Functions
from infra.constructs.messaging import consume


class EndpointKeeping(Construct):
    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        functions: Functions,
        environment: HostEnvironment,
        notices: sqs.Queue,
        dead_letters: sqs.Queue,
    ) -> None:
        super().__init__(scope, id)
        self.keep_endpoint = functions.create(
            self, "KeepEndpoint", handler="lambdas.hosting.keep_endpoint.handler", environment=environment
        )
        consume(notices, self.keep_endpoint, key=functions.key)
        events.Rule(
            self,
            "EndpointChanged",
            event_pattern=events.EventPattern(
                source=["aws.sagemaker"],
                detail_type=["SageMaker Endpoint State Change"],
                detail={
                    "EndpointName": [{"prefix": f"{functions.prefix}-"}],
                    "EndpointStatus": ["IN_SERVICE", "FAILED"],
                },
            ),
            targets=[targets.SqsQueue(notices, dead_letter_queue=dead_letters)],
        )
