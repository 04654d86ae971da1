"""The few ways in which a principal may use bucket, table, topics, queues, their key, SageMaker's roles and endpoints.

The grants of the CDK library allow whole families of actions (s3:GetObject*, s3:List*) or some that nobody asks for
(sqs:GetQueueUrl); these name every action. What needs which stands in docs/grants.md.
"""

from __future__ import annotations

from typing import Literal

from aws_cdk import ArnFormat, Aws, Stack
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs

from contracts.storage import LINES

SCALING_SERVICE = "sagemaker.application-autoscaling.amazonaws.com"
SCALING_ROLE = "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"

# What a service asks of KMS in the name of who uses it, for the right in question.
READ = RECEIVE = ("kms:Decrypt",)
WRITE = SEND = ("kms:GenerateDataKey", "kms:Decrypt")  # parts of a large object are read again when they are joined
ROWS = (
    *("kms:DescribeKey", "kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey"),
    *("kms:ReEncryptFrom", "kms:ReEncryptTo"),
)


def use_key(key: kms.IKey | None, grantee: iam.IGrantable, service: str, *actions: str) -> None:
    """Through that service only: nobody may take the key in hand to decrypt with it."""
    if key:
        grantee.grant_principal.add_to_principal_policy(
            iam.PolicyStatement(
                actions=list(actions),
                resources=[key.key_arn],
                conditions={"StringEquals": {"kms:ViaService": f"{service}.{Aws.REGION}.amazonaws.com"}},
            )
        )


def store_under(key: kms.IKey | None, grantee: iam.IGrantable) -> None:
    """SageMaker asks this of the role of a job or an endpoint whose output is to be encrypted under the key.

    https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_OutputDataConfig.html
    """
    if key:
        _allow(grantee, ["kms:Encrypt", "kms:DescribeKey"], [key.key_arn])


def encrypt_volumes(key: kms.IKey | None, grantee: iam.IGrantable) -> None:
    """Asked of who creates an endpoint whose volume is encrypted under the key: SageMaker hands that right on."""
    if key:
        grantee.grant_principal.add_to_principal_policy(
            iam.PolicyStatement(
                actions=["kms:CreateGrant"],
                resources=[key.key_arn],
                conditions={"Bool": {"kms:GrantIsForAWSResource": "true"}},
            )
        )


def publish(topic: sns.Topic, key: kms.IKey | None, grantee: iam.IGrantable) -> None:
    topic.grant_publish(grantee)
    use_key(key, grantee, "sns", *SEND)


def send(queue: sqs.Queue, key: kms.IKey | None, grantee: iam.IGrantable) -> None:
    queue.grant(grantee, "sqs:SendMessage")
    use_key(key, grantee, "sqs", *SEND)


def receive(queue: sqs.Queue, key: kms.IKey | None, grantee: iam.IGrantable) -> None:
    """What Lambda asks of a function's role: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html"""
    queue.grant(grantee, "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")
    use_key(key, grantee, "sqs", *RECEIVE)


def put_off(queue: sqs.Queue, grantee: iam.IGrantable) -> None:
    """To choose when a message is delivered again."""
    queue.grant(grantee, "sqs:ChangeMessageVisibility")


def _allow(grantee: iam.IGrantable, actions: list[str], resources: list[str]) -> None:
    grantee.grant_principal.add_to_principal_policy(iam.PolicyStatement(actions=actions, resources=resources))


def read_objects(bucket: s3.IBucket, grantee: iam.IGrantable, *key_patterns: str) -> None:
    """With the right to list: S3 answers "no such key" only to those who have it, and "denied" to all others."""
    _allow(grantee, ["s3:GetObject"], [bucket.arn_for_objects(pattern) for pattern in key_patterns])
    _allow(grantee, ["s3:ListBucket"], [bucket.bucket_arn])
    use_key(bucket.encryption_key, grantee, "s3", *READ)


def write_objects(bucket: s3.IBucket, grantee: iam.IGrantable, *key_patterns: str) -> None:
    _allow(grantee, ["s3:PutObject"], [bucket.arn_for_objects(pattern) for pattern in key_patterns])
    use_key(bucket.encryption_key, grantee, "s3", *WRITE)


def abort_uploads(bucket: s3.IBucket, grantee: iam.IGrantable, *key_patterns: str) -> None:
    """See https://docs.aws.amazon.com/sagemaker/latest/dg/async-inference-create-endpoint-prerequisites.html"""
    _allow(grantee, ["s3:AbortMultipartUpload"], [bucket.arn_for_objects(pattern) for pattern in key_patterns])


def list_objects(bucket: s3.IBucket, grantee: iam.IGrantable, key_pattern: str) -> None:
    grantee.grant_principal.add_to_principal_policy(
        iam.PolicyStatement(
            actions=["s3:ListBucket"],
            resources=[bucket.bucket_arn],
            conditions={"StringLike": {"s3:prefix": key_pattern}},
        )
    )


def erase_objects(bucket: s3.IBucket, grantee: iam.IGrantable, *folders: str) -> None:
    """With their former versions, which are found by a listing of their own. Reading them is another right."""
    patterns = [f"{folder}*" for folder in folders]
    _allow(
        grantee,
        ["s3:DeleteObject", "s3:DeleteObjectVersion"],
        [bucket.arn_for_objects(pattern) for pattern in patterns],
    )
    grantee.grant_principal.add_to_principal_policy(
        iam.PolicyStatement(
            actions=["s3:ListBucketVersions"],
            resources=[bucket.bucket_arn],
            conditions={"StringLike": {"s3:prefix": patterns}},
        )
    )


def keep_rows(
    table: dynamodb.ITable, grantee: iam.IGrantable, *more: Literal["PutItem", "Query", "DeleteItem"]
) -> None:
    """Single rows are read and changed, and what else is named; never a scan."""
    table.grant(grantee, *(f"dynamodb:{action}" for action in ("GetItem", "UpdateItem", *more)))
    use_key(table.encryption_key, grantee, "dynamodb", *ROWS)


def leave_lines(table: dynamodb.ITable, grantee: iam.IGrantable) -> None:
    """Of requests that wait for an endpoint: the rows of those partitions and of no others may be deleted."""
    grantee.grant_principal.add_to_principal_policy(
        iam.PolicyStatement(
            actions=["dynamodb:DeleteItem"],
            resources=[table.table_arn],
            conditions={"ForAllValues:StringLike": {"dynamodb:LeadingKeys": [f"{LINES}*"]}},
        )
    )


def pass_to_sagemaker(role: iam.IRole, grantee: iam.IGrantable) -> None:
    grantee.grant_principal.add_to_principal_policy(
        iam.PolicyStatement(
            actions=["iam:PassRole"],
            resources=[role.role_arn],
            conditions={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
        )
    )


class Endpoints:
    """SageMaker's endpoints below a prefix, with what scales them."""

    def __init__(self, stack: Stack, prefix: str) -> None:
        self._stack = stack
        self._prefix = prefix

    def draw(self, grantee: iam.IGrantable) -> None:
        """To send requests, and to wake one that sleeps."""
        self._use(grantee, "InvokeEndpointAsync", "DescribeEndpoint", "UpdateEndpointWeightsAndCapacities")

    def make(self, grantee: iam.IGrantable) -> None:
        """With their models, configurations and scaling."""
        self._use(grantee, "DescribeEndpoint", "UpdateEndpointWeightsAndCapacities")
        self._compose(grantee, "CreateModel", "CreateEndpointConfig", "CreateEndpoint")
        self._compose(grantee, "DescribeEndpointConfig")  # asked of whoever registers a scalable target
        self._scale(grantee, "RegisterScalableTarget", "PutScalingPolicy")
        # https://docs.aws.amazon.com/autoscaling/application/userguide/security_iam_id-based-policy-examples.html
        self._alarm(grantee, "PutMetricAlarm", "DescribeAlarms", "DeleteAlarms")
        grantee.grant_principal.add_to_principal_policy(
            iam.PolicyStatement(
                actions=["iam:CreateServiceLinkedRole"],
                resources=[
                    self._stack.format_arn(
                        service="iam",
                        region="",
                        resource="role",
                        resource_name=f"aws-service-role/{SCALING_SERVICE}/{SCALING_ROLE}",
                    )
                ],
                conditions={"StringEquals": {"iam:AWSServiceName": SCALING_SERVICE}},
            )
        )

    def update(self, grantee: iam.IGrantable) -> None:
        """Their scaling is taken off meanwhile; one that failed makes way."""
        self._compose(grantee, "UpdateEndpoint")
        self._use(grantee, "DeleteEndpoint")
        self._scale(grantee, "DeregisterScalableTarget")

    def remove(self, grantee: iam.IGrantable) -> None:
        """With whatever `make` made for them."""
        _allow(grantee, _sagemaker("ListModels"), ["*"])  # the action knows no resource
        self._use(grantee, "DescribeEndpoint", "DeleteEndpoint")
        self._compose(grantee, "DeleteModel", "DeleteEndpointConfig")
        self._scale(grantee, "DeregisterScalableTarget")
        self._alarm(grantee, "DeleteAlarms")

    def tell_ours(self, grantee: iam.IGrantable) -> None:
        """From those of another deployment, whose prefix may begin like ours: by their model."""
        self._compose(grantee, "DescribeModel")

    def find(self, grantee: iam.IGrantable) -> None:
        _allow(grantee, _sagemaker("ListEndpoints"), ["*"])  # the action knows no resource

    def _use(self, grantee: iam.IGrantable, *actions: str) -> None:
        _allow(grantee, _sagemaker(*actions), [self._named("endpoint")])

    def _compose(self, grantee: iam.IGrantable, *actions: str) -> None:
        """Endpoints of configurations, and these of models."""
        parts = [self._named(kind) for kind in ("model", "endpoint-config", "endpoint")]
        _allow(grantee, _sagemaker(*actions), parts)

    def _alarm(self, grantee: iam.IGrantable, *actions: str) -> None:
        """Our own, and those that target tracking makes in the caller's name."""
        alarms = [
            self._stack.format_arn(
                service="cloudwatch", resource="alarm", resource_name=name, arn_format=ArnFormat.COLON_RESOURCE_NAME
            )
            for name in (f"{self._prefix}-*", f"TargetTracking-endpoint/{self._prefix}-*")
        ]
        _allow(grantee, [f"cloudwatch:{action}" for action in actions], alarms)

    def _scale(self, grantee: iam.IGrantable, *actions: str) -> None:
        grantee.grant_principal.add_to_principal_policy(
            iam.PolicyStatement(
                actions=[f"application-autoscaling:{action}" for action in actions],
                resources=["*"],  # a target is named by an opaque id; what can be told is the service it belongs to
                conditions={"StringEqualsIfExists": {"application-autoscaling:service-namespace": "sagemaker"}},
            )
        )

    def _named(self, kind: str) -> str:
        return self._stack.format_arn(service="sagemaker", resource=kind, resource_name=f"{self._prefix}-*")


def _sagemaker(*actions: str) -> list[str]:
    return [f"sagemaker:{action}" for action in actions]
