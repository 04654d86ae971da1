"""What must survive: the data bucket, the log of who used it, and the table. The service stack can be made again."""

from __future__ import annotations

from typing import cast

from aws_cdk import CfnOutput, Duration, Stack
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_s3 as s3
from constructs import Construct

from contracts.generation import KEEP_GENERATIONS_DAYS, KEEP_SOURCES_DAYS
from contracts.storage import CHECKPOINTS, GENERATIONS, INFERENCE, SOURCES
from infra.constructs.data_key import DataKey
from infra.settings import Settings

KEEP_CHECKPOINTS_DAYS = 30
KEEP_REPLACED_VERSIONS_DAYS = 30
ABORT_UPLOADS_DAYS = 7
KEEP_ACCESS_LOGS_DAYS = 90


class DataStack(Stack):
    def __init__(self, scope: Construct, id: str, *, settings: Settings) -> None:
        super().__init__(
            scope,
            id,
            description="Dreamdrop: datasets, models, pictures and their state.",
            termination_protection=settings.termination_protection,
        )
        self.key = DataKey(self, "Key", settings=settings) if settings.customer_key else None
        self.bucket = _data_bucket(self, settings, self.key)
        self.table = dynamodb.Table(
            self,
            "Table",
            partition_key=dynamodb.Attribute(name="pk", type=dynamodb.AttributeType.STRING),
            sort_key=dynamodb.Attribute(name="sk", type=dynamodb.AttributeType.STRING),
            time_to_live_attribute="expires_at",
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            encryption=dynamodb.TableEncryption.CUSTOMER_MANAGED if self.key else None,
            encryption_key=self.key,
            deletion_protection=settings.termination_protection,
            removal_policy=settings.data_removal,
        )
        CfnOutput(self, "DataBucketName", value=self.bucket.bucket_name)
        CfnOutput(self, "TableName", value=self.table.table_name)


def _data_bucket(scope: Construct, settings: Settings, key: DataKey | None) -> s3.Bucket:
    access_logs = _access_log_bucket(scope, settings) if settings.access_logs else None
    bucket = s3.Bucket(
        scope,
        "DataBucket",
        block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
        object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
        encryption=s3.BucketEncryption.KMS if key else s3.BucketEncryption.S3_MANAGED,
        encryption_key=key,
        bucket_key_enabled=True if key else None,  # one request to KMS for many objects
        enforce_ssl=True,
        versioned=settings.versioned_data,
        removal_policy=settings.data_removal,
        lifecycle_rules=_lifecycle(settings),
        server_access_logs_bucket=access_logs,
        server_access_logs_prefix="data/" if access_logs else None,
        # The page uploads source pictures, from an address that this stack does not know. What lets a request in is its
        # signature; this lets browsers send one.
        cors=[
            s3.CorsRule(allowed_methods=[s3.HttpMethods.PUT], allowed_origins=["*"], allowed_headers=["content-type"])
        ],
    )
    # The bucket's own property: the library's switch would add a function that may reconfigure every bucket.
    resource = cast(s3.CfnBucket, bucket.node.default_child)
    resource.add_property_override("NotificationConfiguration.EventBridgeConfiguration.EventBridgeEnabled", True)
    return bucket


def _access_log_bucket(scope: Construct, settings: Settings) -> s3.Bucket:
    """S3 delivers into a bucket under its own keys only: https://docs.aws.amazon.com/AmazonS3/latest/userguide/enable-server-access-logging.html"""
    return s3.Bucket(
        scope,
        "AccessLogs",
        block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
        object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
        encryption=s3.BucketEncryption.S3_MANAGED,
        enforce_ssl=True,
        removal_policy=settings.data_removal,
        lifecycle_rules=[
            _abort_uploads(),
            s3.LifecycleRule(id="expire-access-logs", expiration=Duration.days(KEEP_ACCESS_LOGS_DAYS)),
        ],
    )


def _lifecycle(settings: Settings) -> list[s3.LifecycleRule]:
    rules = [
        _abort_uploads(),
        _expire(INFERENCE, KEEP_GENERATIONS_DAYS),
        _expire(GENERATIONS, KEEP_GENERATIONS_DAYS),
        _expire(SOURCES, KEEP_SOURCES_DAYS),
        _expire(CHECKPOINTS, KEEP_CHECKPOINTS_DAYS),
    ]
    if settings.versioned_data:
        rules.append(
            s3.LifecycleRule(
                id="drop-replaced-versions",
                noncurrent_version_expiration=Duration.days(KEEP_REPLACED_VERSIONS_DAYS),
                expired_object_delete_marker=True,
            )
        )
    return rules


def _abort_uploads() -> s3.LifecycleRule:
    return s3.LifecycleRule(
        id="abort-uploads", abort_incomplete_multipart_upload_after=Duration.days(ABORT_UPLOADS_DAYS)
    )


def _expire(prefix: str, days: int) -> s3.LifecycleRule:
    return s3.LifecycleRule(id=f"expire-{prefix.rstrip('/')}", prefix=prefix, expiration=Duration.days(days))
