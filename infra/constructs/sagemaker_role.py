"""The role under which SageMaker runs one of our images: pull it, write its log and metrics. Data is granted apart."""

from __future__ import annotations

from aws_cdk import ArnFormat, Stack
from aws_cdk import aws_iam as iam
from aws_cdk.aws_ecr_assets import DockerImageAsset
from constructs import Construct


class SageMakerRole(iam.Role):
    def __init__(
        self, scope: Construct, id: str, *, image: DockerImageAsset, log_group: str, log_streams: str = "*"
    ) -> None:
        """`log_group`, `log_streams`: where SageMaker writes what the container prints; may end with an asterisk."""
        super().__init__(scope, id, assumed_by=iam.ServicePrincipal("sagemaker.amazonaws.com"))
        image.repository.grant_pull(self)
        logs_arn = Stack.of(self).format_arn(
            service="logs", resource="log-group", resource_name=log_group, arn_format=ArnFormat.COLON_RESOURCE_NAME
        )
        self.add_to_policy(
            iam.PolicyStatement(
                actions=["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams"],
                resources=[logs_arn, f"{logs_arn}:*"],
            )
        )
        self.add_to_policy(
            iam.PolicyStatement(actions=["logs:PutLogEvents"], resources=[f"{logs_arn}:log-stream:{log_streams}"])
        )
        self.add_to_policy(
            iam.PolicyStatement(
                actions=["cloudwatch:PutMetricData"],
                resources=["*"],  # the action knows no resource: its namespaces are the limit
                conditions={"StringLike": {"cloudwatch:namespace": ["/aws/sagemaker/*", "AWS/SageMaker"]}},
            )
        )
