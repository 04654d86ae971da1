"""What must survive: the data bucket and the table. The service stack can be deleted and made again."""

from __future__ import annotations

from typing import cast

from aws_cdk import CfnOutput, Duration, Stack
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_s3 as s3
from constructs import Construct

from contracts.generation import KEEP_GENERATIONS_DAYS, KEEP_SOURCES_DAYS
from contracts.storage import CHECKPOINTS, GENERATIONS, INFERENCE, SOURCES
from infra.settings import Settings

KEEP_CHECKPOINTS_DAYS = 30
KEEP_REPLACED_VERSIONS_DAYS = 30
ABORT_UPLOADS_DAYS = 7


class DataStack(Stack):
    def __init__(self, scope: Construct, id: str, *, settings: Settings) -> None:
        super().__init__(
            scope,
            id,
            description="Dreamdrop: datasets, models, pictures and their state.",
            termination_protection=settings.termination_protection,
        )
        self.bucket = _data_bucket(self, settings)
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
            deletion_protection=settings.termination_protection,
            removal_policy=settings.data_removal,
        )
        CfnOutput(self, "DataBucketName", value=self.bucket.bucket_name)
        CfnOutput(self, "TableName", value=self.table.table_name)


def _data_bucket(scope: Construct, settings: Settings) -> s3.Bucket:
    bucket = s3.Bucket(
        scope,
        "DataBucket",
        block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
        object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
        encryption=s3.BucketEncryption.S3_MANAGED,
        enforce_ssl=True,
        versioned=settings.versioned_data,
        removal_policy=settings.data_removal,
        lifecycle_rules=_lifecycle(settings),
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


def _lifecycle(settings: Settings) -> list[s3.LifecycleRule]:
    rules = [
        s3.LifecycleRule(id="abort-uploads", abort_incomplete_multipart_upload_after=Duration.days(ABORT_UPLOADS_DAYS)),
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
            )
        )
    return rules


def _expire(prefix: str, days: int) -> s3.LifecycleRule:
    return s3.LifecycleRule(id=f"expire-{prefix.rstrip('/')}", prefix=prefix, expiration=Duration.days(days))
