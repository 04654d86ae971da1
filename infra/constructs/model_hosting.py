"""What makes, wakes and hears the asynchronous endpoints. The endpoints themselves are made at run time."""

from __future__ import annotations

from aws_cdk import ArnFormat, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from contracts.environment import HostEnvironment, StoreEnvironment
from infra.constructs.functions import Functions
from infra.constructs.messaging import dead_letter_queue, topic, work_queue
from infra.constructs.sagemaker_role import SageMakerRole
from infra.grants import pass_to_sagemaker
from infra.packaging import inference_image
from infra.settings import Settings

SCALING_SERVICE = "sagemaker.application-autoscaling.amazonaws.com"
SCALING_ROLE = "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"


class ModelHosting(Construct):
    def __init__(self, scope: Construct, id: str, *, settings: Settings, functions: Functions) -> None:
        super().__init__(scope, id)
        self._prefix = settings.prefix
        image = inference_image(self, "Image")
        self.role = SageMakerRole(self, "Role", image=image, log_group=f"/aws/sagemaker/Endpoints/{settings.prefix}-*")
        self.drawn = topic(self, "Drawn")
        self.not_drawn = topic(self, "NotDrawn")
        for outcome in (self.drawn, self.not_drawn):
            outcome.grant_publish(self.role)

        self.host_model = functions.create(
            self,
            "HostModel",
            handler="lambdas.hosting.host_model.handler",
            environment=HostEnvironment(
                **functions.store,
                resource_prefix=settings.prefix,
                inference_image=image.image_uri,
                inference_role_arn=self.role.role_arn,
                inference_instance_type=settings.inference_instance_type,
                inference_max_instances=settings.inference_max_instances,
                inference_success_topic_arn=self.drawn.topic_arn,
                inference_error_topic_arn=self.not_drawn.topic_arn,
                sleep_after_creation=settings.sleep_after_creation,
                blocked_words=list(settings.blocked_words),
                watermark=settings.watermark,
            ),
        )
        self._allow_hosting(self.host_model)

        self.record_generation = functions.create(
            self,
            "RecordGeneration",
            handler="lambdas.api.record_generation.handler",
            environment=StoreEnvironment(**functions.store),
            memory_mb=1024,  # an answer holds up to eight pictures as base64
        )
        self.dead_letters = dead_letter_queue(self, "DeadLetters")
        answers = work_queue(self, "Answers", consumer=self.record_generation, dead_letters=self.dead_letters)
        for outcome in (self.drawn, self.not_drawn):
            outcome.add_subscription(subscriptions.SqsSubscription(answers, raw_message_delivery=True))

    def allow_drawing(self, grantee: iam.IGrantable) -> None:
        """To send requests to our endpoints, and to wake one that sleeps."""
        grantee.grant_principal.add_to_principal_policy(
            iam.PolicyStatement(
                actions=[
                    "sagemaker:InvokeEndpointAsync",
                    "sagemaker:DescribeEndpoint",
                    "sagemaker:UpdateEndpointWeightsAndCapacities",
                ],
                resources=[self._ours("endpoint")],
            )
        )

    def _ours(self, resource: str) -> str:
        return Stack.of(self).format_arn(service="sagemaker", resource=resource, resource_name=f"{self._prefix}-*")

    def _allow_hosting(self, grantee: iam.IGrantable) -> None:
        for statement in (
            iam.PolicyStatement(
                actions=[f"sagemaker:{verb}Model" for verb in ("Create", "Describe", "Delete")]
                + [f"sagemaker:{verb}EndpointConfig" for verb in ("Create", "Describe", "Delete")]
                + [f"sagemaker:{verb}Endpoint" for verb in ("Create", "Describe", "Update", "Delete")]
                + ["sagemaker:UpdateEndpointWeightsAndCapacities"],  # asked of whoever registers a scalable target
                resources=[self._ours(resource) for resource in ("model", "endpoint-config", "endpoint")],
            ),
            *self._scaling_statements(),
        ):
            grantee.grant_principal.add_to_principal_policy(statement)
        pass_to_sagemaker(self.role, grantee)

    def _scaling_statements(self) -> list[iam.PolicyStatement]:
        stack = Stack.of(self)
        return [
            iam.PolicyStatement(
                actions=["application-autoscaling:RegisterScalableTarget", "application-autoscaling:PutScalingPolicy"],
                resources=["*"],  # a target is named by an opaque id; what can be told is the service it belongs to
                conditions={"StringEqualsIfExists": {"application-autoscaling:service-namespace": "sagemaker"}},
            ),
            iam.PolicyStatement(
                actions=[
                    "application-autoscaling:DescribeScalableTargets",
                    "application-autoscaling:DescribeScalingPolicies",
                ],
                resources=["*"],  # these actions know no resource
            ),
            iam.PolicyStatement(
                actions=[f"cloudwatch:{verb}" for verb in ("PutMetricAlarm", "DescribeAlarms", "DeleteAlarms")],
                resources=[
                    stack.format_arn(
                        service="cloudwatch",
                        resource="alarm",
                        resource_name=name,
                        arn_format=ArnFormat.COLON_RESOURCE_NAME,
                    )
                    # our own, and those that target tracking makes in the caller's name
                    for name in (f"{self._prefix}-*", f"TargetTracking-endpoint/{self._prefix}-*")
                ],
            ),
            iam.PolicyStatement(
                actions=["iam:CreateServiceLinkedRole"],
                resources=[
                    stack.format_arn(
                        service="iam",
                        region="",
                        resource="role",
                        resource_name=f"aws-service-role/{SCALING_SERVICE}/{SCALING_ROLE}",
                    )
                ],
                conditions={"StringEquals": {"iam:AWSServiceName": SCALING_SERVICE}},
            ),
        ]
