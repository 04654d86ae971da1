"""At the end of the stack: what it made at run time goes too."""

from __future__ import annotations

from aws_cdk import CustomResource, Stack
from aws_cdk import aws_iam as iam
from constructs import Construct

from contracts.environment import RemovalEnvironment
from infra.constructs.functions import Functions
from infra.constructs.private_network import PrivateNetwork
from infra.grants import Endpoints
from infra.settings import Settings

TIMEOUT_SECONDS = 900  # an endpoint can be removed only when it is done changing


class Removal(Construct):
    """Depends on nothing that starts work, so that whatever depends on `resource` is gone before it removes."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        settings: Settings,
        functions: Functions,
        endpoints: Endpoints,
        training_role: iam.IRole,
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
                training_role_arn=training_role.role_arn,
                inference_role_arn=inference_role.role_arn,
                security_group_id=network.security_group.security_group_id if network else "",
            ),
            timeout_seconds=TIMEOUT_SECONDS,
        )
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
