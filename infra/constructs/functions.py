"""The one way in which a Python function is made."""

from __future__ import annotations

from aws_cdk import CfnParameter, Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk.aws_dynamodb import ITable
from constructs import Construct

from contracts.environment import StoreEnvironment
from infra.packaging import lambda_code
from infra.settings import Settings

DEFAULT_TIMEOUT_SECONDS = 60
POWERTOOLS_VERSION = "3.37.0"  # the version that pyproject.toml pins: the layer brings Powertools and pydantic
RUNTIME = lambda_.Runtime.PYTHON_3_14
# What its SDK may be too old to know: botocore merges the *.sdk-extras.json of this folder into its services' models.
NEWER_SDK = "/var/task/lambdas/adapters/newer_sdk"
POWERTOOLS_LAYER = f"/aws/service/powertools/python/arm64/{RUNTIME.name}/{POWERTOOLS_VERSION}"


class Functions(Construct):
    """Shares one asset and one layer between all functions; `store` begins the environment of each."""

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        settings: Settings,
        bucket: s3.IBucket,
        table: ITable,
        key: kms.IKey | None,
    ) -> None:
        super().__init__(scope, id)
        self.key = key
        self.key_arn = key.key_arn if key else ""
        self.store = StoreEnvironment(data_bucket=bucket.bucket_name, table_name=table.table_name).model_dump()
        self.prefix = settings.prefix
        self._settings = settings
        self._code = lambda_code()
        layer_arn = CfnParameter(
            self,
            "PowertoolsLayer",
            type="AWS::SSM::Parameter::Value<String>",
            default=POWERTOOLS_LAYER,
            description="Public parameter that names the managed layer in the region of the stack.",
        )
        self._layer = lambda_.LayerVersion.from_layer_version_arn(self, "Powertools", layer_arn.value_as_string)

    def create(
        self,
        scope: Construct,
        id: str,
        *,
        handler: str,
        environment: StoreEnvironment,
        memory_mb: int = 512,
        timeout_seconds: int = DEFAULT_TIMEOUT_SECONDS,
    ) -> lambda_.Function:
        """`handler`: module.function below the repository root. The role may write its own log and nothing else."""
        log_group = self.log_group(scope, f"{id}Log")
        role = iam.Role(scope, f"{id}Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        log_group.grant_write(role)
        return lambda_.Function(
            scope,
            id,
            runtime=RUNTIME,
            architecture=lambda_.Architecture.ARM_64,
            code=self._code,
            layers=[self._layer],
            handler=handler,
            role=role,
            log_group=log_group,
            tracing=lambda_.Tracing.ACTIVE,
            memory_size=memory_mb,
            timeout=Duration.seconds(timeout_seconds),
            environment={
                **environment.to_variables(),
                "AWS_DATA_PATH": NEWER_SDK,
                "POWERTOOLS_SERVICE_NAME": self._settings.prefix,
                "POWERTOOLS_METRICS_NAMESPACE": self._settings.prefix,
                "POWERTOOLS_LOG_LEVEL": "INFO",
            },
        )

    def log_group(self, scope: Construct, id: str) -> logs.LogGroup:
        """Forgotten some day, under the key if there is one."""
        return logs.LogGroup(
            scope,
            id,
            retention=self._settings.log_retention,
            removal_policy=self._settings.log_removal,
            encryption_key=self.key,
        )
