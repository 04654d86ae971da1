"""Where a deployment of Dreamdrop is: in an AWS account or on this machine. The client needs nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Self

import boto3
from pydantic import BaseModel, BeforeValidator, ConfigDict, SecretStr

from contracts.dead_letters import DEAD_LETTERS_OUTPUT, DeadLetterQueue
from contracts.errors import DreamdropError

LOCAL_OUTPUTS = Path(".local/outputs.json")
TOKEN_VARIABLE = "DREAMDROP_TOKEN"  # noqa: S105 - a name
LOCAL_SECRET = "local"  # noqa: S105 - the local cloud knows no secrets

# Names of the stacks' outputs -> fields below.
STACK_OUTPUTS = {
    "ApiUrl": "api_url",
    "DataBucketName": "data_bucket",
    "TableName": "table_name",
    "StateMachineArn": "state_machine_arn",
    "SubjectTopicArn": "subject_topic_arn",
    DEAD_LETTERS_OUTPUT: "dead_letters",
}


def _parsed(value: Any) -> Any:
    """An output of a stack is text."""
    return json.loads(value) if isinstance(value, str) else value


class NoDeployment(DreamdropError):
    """There is nothing to talk to."""

    code = "no_deployment"
    default_cure = "Deploy it (make deploy), or name another one with --prefix and --region."


class Deployment(BaseModel):
    model_config = ConfigDict(frozen=True)

    region: str
    api_url: str
    data_bucket: str
    table_name: str
    state_machine_arn: str
    subject_topic_arn: str
    dead_letters: Annotated[dict[str, DeadLetterQueue], BeforeValidator(_parsed)] = {}
    endpoint_url: str | None = None  # local only
    account: str | None = None  # local only: also the access key
    token: SecretStr | None = None  # where callers show tokens instead of signing

    @classmethod
    def from_outputs(cls, outputs: dict[str, str], **where: str) -> Self:
        """`outputs`: the outputs of both stacks, by name."""
        missing = sorted(STACK_OUTPUTS.keys() - outputs.keys())
        if missing:
            raise NoDeployment(f"The stacks lack the outputs {', '.join(missing)}.", "Deploy this version again.")
        return cls.model_validate({field: outputs[name] for name, field in STACK_OUTPUTS.items()} | where)

    @classmethod
    def local(cls, path: Path = LOCAL_OUTPUTS) -> Self:
        """The local cloud that is up. Raises NoDeployment."""
        try:
            return cls.model_validate_json(path.read_text())
        except FileNotFoundError:
            raise NoDeployment(
                f"There is no local cloud up in {Path.cwd()}.",
                "Start it with: make up; or use the deployment of an AWS account with --aws.",
            ) from None

    @classmethod
    def in_account(cls, prefix: str, region: str | None) -> Self:
        """The stacks <prefix>-data and <prefix>-service of the account behind the default credentials."""
        session = boto3.Session(region_name=region)
        if session.region_name is None:
            raise NoDeployment("No region is set.", "Name it with --region, or set AWS_DEFAULT_REGION.")
        cloudformation = session.client("cloudformation")
        outputs: dict[str, str] = {}
        for stack in (f"{prefix}-data", f"{prefix}-service"):
            try:
                described = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
            except cloudformation.exceptions.ClientError as error:
                raise NoDeployment(f"No stack {stack} in {session.region_name}: {error}.") from error
            outputs |= {o["OutputKey"]: o["OutputValue"] for o in described.get("Outputs", [])}
        token = os.environ.get(TOKEN_VARIABLE)
        return cls.from_outputs(outputs, region=session.region_name, **({"token": token} if token else {}))

    def session(self) -> boto3.Session:
        if self.endpoint_url is None:
            return boto3.Session(region_name=self.region)
        return boto3.Session(
            region_name=self.region, aws_access_key_id=self.account, aws_secret_access_key=LOCAL_SECRET
        )

    def client(self, service: str) -> Any:
        return self.session().client(service, endpoint_url=self.endpoint_url)  # type: ignore[call-overload]
