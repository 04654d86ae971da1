"""The few ways in which a principal may use the data bucket, the table and SageMaker's roles.

The grants of the CDK library allow whole families of actions (s3:GetObject*, s3:List*); these name every action.
"""

from __future__ import annotations

from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3

ROW_ACTIONS = (
    "dynamodb:GetItem",
    "dynamodb:Query",
    "dynamodb:PutItem",
    "dynamodb:UpdateItem",
)


def _allow(grantee: iam.IGrantable, actions: list[str], resources: list[str]) -> None:
    grantee.grant_principal.add_to_principal_policy(iam.PolicyStatement(actions=actions, resources=resources))


def read_objects(bucket: s3.IBucket, grantee: iam.IGrantable, *key_patterns: str) -> None:
    """With the right to list: S3 answers "no such key" only to those who have it, and "denied" to all others."""
    _allow(grantee, ["s3:GetObject"], [bucket.arn_for_objects(pattern) for pattern in key_patterns])
    _allow(grantee, ["s3:ListBucket"], [bucket.bucket_arn])


def write_objects(bucket: s3.IBucket, grantee: iam.IGrantable, *key_patterns: str) -> None:
    _allow(
        grantee,
        ["s3:PutObject", "s3:AbortMultipartUpload"],
        [bucket.arn_for_objects(pattern) for pattern in key_patterns],
    )


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


def keep_rows(table: dynamodb.ITable, grantee: iam.IGrantable) -> None:
    """Single rows and the rows of one partition; never a scan."""
    table.grant(grantee, *ROW_ACTIONS)


def remove_rows(table: dynamodb.ITable, grantee: iam.IGrantable) -> None:
    keep_rows(table, grantee)
    table.grant(grantee, "dynamodb:DeleteItem")


def pass_to_sagemaker(role: iam.IRole, grantee: iam.IGrantable) -> None:
    grantee.grant_principal.add_to_principal_policy(
        iam.PolicyStatement(
            actions=["iam:PassRole"],
            resources=[role.role_arn],
            conditions={"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
        )
    )
