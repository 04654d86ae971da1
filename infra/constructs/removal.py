"""At the end of the stack: what it made at run time goes too."""

from __future__ import annotations

from aws_cdk import ArnFormat, CustomResource, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from contracts.environment import RemovalEnvironment
from infra.constructs.functions import Functions
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
        training_role: iam.IRole,
        inference_role: iam.IRole,
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
            ),
            timeout_seconds=TIMEOUT_SECONDS,
        )
        self._allow(self.function)
        self.resource = CustomResource(
            self, "RuntimeResources", resource_type="Custom::RuntimeResources", service_token=self.function.function_arn
        )
        if self.function.role is not None:
            self.resource.node.add_dependency(self.function.role)  # with its policy, which is needed to the end

    def _allow(self, function: lambda_.Function) -> None:
        stack = Stack.of(self)

        def ours(service: str, resource: str, arn_format: ArnFormat = ArnFormat.SLASH_RESOURCE_NAME) -> str:
            return stack.format_arn(
                service=service, resource=resource, resource_name=f"{self._prefix}-*", arn_format=arn_format
            )

        for statement in (
            iam.PolicyStatement(
                actions=[f"sagemaker:List{kind}" for kind in ("Models", "Endpoints", "TrainingJobs")],
                resources=["*"],  # these actions know no resource
            ),
            iam.PolicyStatement(
                actions=[
                    "sagemaker:DescribeModel",
                    "sagemaker:DeleteModel",
                    "sagemaker:DescribeEndpoint",
                    "sagemaker:DeleteEndpoint",
                    "sagemaker:DeleteEndpointConfig",
                    "sagemaker:DescribeTrainingJob",
                    "sagemaker:StopTrainingJob",
                ],
                resources=[
                    ours("sagemaker", kind) for kind in ("model", "endpoint", "endpoint-config", "training-job")
                ],
            ),
            iam.PolicyStatement(
                actions=["application-autoscaling:DeregisterScalableTarget"],
                resources=["*"],  # a target is named by an opaque id; what can be told is the service it belongs to
                conditions={"StringEqualsIfExists": {"application-autoscaling:service-namespace": "sagemaker"}},
            ),
            iam.PolicyStatement(
                actions=["cloudwatch:DeleteAlarms"],
                resources=[
                    ours("cloudwatch", "alarm", ArnFormat.COLON_RESOURCE_NAME),
                    stack.format_arn(
                        service="cloudwatch",
                        resource="alarm",
                        resource_name=f"TargetTracking-endpoint/{self._prefix}-*",
                        arn_format=ArnFormat.COLON_RESOURCE_NAME,
                    ),
                ],
            ),
        ):
            function.add_to_role_policy(statement)
