"""A key of the customer's own for everything at rest, and what services of AWS may do with it in our name.

Functions and SageMaker use it by their roles (infra/grants.py). Named here is who comes without a role of ours.
"""

from __future__ import annotations

from aws_cdk import ArnFormat, Aws, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from infra.settings import Settings

# Alarms to an encrypted topic, topics and rules to encrypted queues:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html
# For this account only, where a service says whom it delivers for. EventBridge does not: each queue's policy names the
# rule that may send to it. https://docs.aws.amazon.com/sns/latest/dg/sns-key-management.html
TELLING_SERVICES = ("cloudwatch.amazonaws.com", "sns.amazonaws.com")
SILENT_SERVICE = "events.amazonaws.com"


class DataKey(kms.Key):
    def __init__(self, scope: Construct, id: str, *, settings: Settings) -> None:
        super().__init__(
            scope,
            id,
            description=f"Everything at rest of {settings.prefix}: objects, rows, messages, logs.",
            enable_key_rotation=True,
            removal_policy=settings.data_removal,
        )
        for_us = {"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}}
        self.add_to_resource_policy(_deliveries(*TELLING_SERVICES, conditions=for_us))
        self.add_to_resource_policy(_deliveries(SILENT_SERVICE))
        self.add_to_resource_policy(_logs(self, settings.prefix))


def _deliveries(*services: str, conditions: dict[str, dict[str, str]] | None = None) -> iam.PolicyStatement:
    return iam.PolicyStatement(
        principals=[iam.ServicePrincipal(service) for service in services],
        actions=["kms:Decrypt", "kms:GenerateDataKey"],
        resources=["*"],  # in the policy of a key: this key
        conditions=conditions,
    )


def _logs(scope: Construct, prefix: str) -> iam.PolicyStatement:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/encrypt-log-data-kms.html"""
    groups = Stack.of(scope).format_arn(
        service="logs", resource="log-group", resource_name=f"{prefix}-*", arn_format=ArnFormat.COLON_RESOURCE_NAME
    )
    return iam.PolicyStatement(
        principals=[iam.ServicePrincipal(f"logs.{Aws.REGION}.amazonaws.com")],
        actions=[
            *("kms:Encrypt", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo"),
            *("kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext", "kms:DescribeKey"),
        ],
        resources=["*"],  # in the policy of a key: this key
        conditions={"ArnLike": {"kms:EncryptionContext:aws:logs:arn": groups}},
    )
