"""At the end of the stack: what runs is stopped, and what was made at run time goes too."""

from __future__ import annotations

from aws_cdk import CustomResource, Stack
from aws_cdk import aws_iam as iam
from constructs import Construct

from contracts.environment import RemovalEnvironment
from infra.constructs.functions import DEFAULT_TIMEOUT_SECONDS, Functions
from infra.constructs.private_network import PrivateNetwork
from infra.constructs.training_pipeline import TrainingPipeline
from infra.grants import Endpoints
from infra.settings import Settings

TIMEOUT_SECONDS = 900  # an endpoint can be removed only when it is done changing


class Removal(Construct):
    """Whatever depends on `resource` is gone before it stops and removes: what begins work. What goes on, and what
    hears of its end, is there still: CloudFormation would wait for hours for a state machine whose executions go on.

    https://docs.aws.amazon.com/step-functions/latest/apireference/API_DeleteStateMachine.html
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        settings: Settings,
        functions: Functions,
        endpoints: Endpoints,
        training: TrainingPipeline,
        inference_role: iam.IRole,
        network: PrivateNetwork | None,
    ) -> None:
        super().__init__(scope, id)
        self._prefix = settings.prefix
        self.function = functions.create(
            self,
            "RemoveEndpoints",
            handler="lambdas.hosting.remove_endpoints.handler",
            environment=RemovalEnvironment(
                **functions.store,
                resource_prefix=settings.prefix,
                state_machine_arn=training.machine.state_machine_arn,
                in_flight_seconds=DEFAULT_TIMEOUT_SECONDS,  # HostModel's, the one step that makes what is billed
                training_role_arn=training.role.role_arn,
                inference_role_arn=inference_role.role_arn,
                security_group_id=network.security_group.security_group_id if network else "",
            ),
            timeout_seconds=TIMEOUT_SECONDS,
        )
        training.machine.grant(self.function, "states:ListExecutions")
        training.machine.grant_execution(self.function, "states:StopExecution")
        self._allow_stopping()
        endpoints.find(self.function)
        endpoints.tell_ours(self.function)
        endpoints.remove(self.function)
        if network:
            self.function.add_to_role_policy(
                iam.PolicyStatement(
                    actions=["ec2:DescribeNetworkInterfaces"],
                    resources=["*"],  # the action knows no resource
                )
            )
        self.resource = CustomResource(
            self, "RuntimeResources", resource_type="Custom::RuntimeResources", service_token=self.function.function_arn
        )
        if self.function.role is not None:
            self.resource.node.add_dependency(self.function.role)  # with its policy, which is needed to the end
        self.resource.node.add_dependency(training)
        # Under it SageMaker removes what belongs to an endpoint, and from the network its interfaces.
        self.resource.node.add_dependency(inference_role)
        if network:
            self.resource.node.add_dependency(network)

    def _allow_stopping(self) -> None:
        """Of training jobs, which are found first."""
        self.function.add_to_role_policy(
            iam.PolicyStatement(actions=["sagemaker:ListTrainingJobs"], resources=["*"])  # the action knows no resource
        )
        jobs = Stack.of(self).format_arn(
            service="sagemaker", resource="training-job", resource_name=f"{self._prefix}-*"
        )
        self.function.add_to_role_policy(
            iam.PolicyStatement(
                actions=["sagemaker:DescribeTrainingJob", "sagemaker:StopTrainingJob"], resources=[jobs]
            )
        )
