"""Deploys a synthesized application into the running emulator, through the APIs that any deployment uses."""

from __future__ import annotations

import re
import time
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from dreamdrop.deployment import LOCAL_SECRET
from dreamdrop.local.assembly import Assembly, StackTemplate
from dreamdrop.local.errors import LocalCloudError
from dreamdrop.local.settings import CloudSettings

_CAPABILITIES = ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]
_GOOD = ("CREATE_COMPLETE", "UPDATE_COMPLETE")
# A stack in one of these states can only be deleted.
_STILLBORN = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED", "REVIEW_IN_PROGRESS")
_TEMPLATES = "dreamdrop-local-templates"
_EXECUTE_API = re.compile(r"https?://(?P<api>[a-z0-9]+)\.execute-api\.[^/]+/?(?P<stage>.*)")


class Deployer:
    def __init__(self, settings: CloudSettings) -> None:
        self._settings = settings
        session = boto3.Session(
            region_name=settings.region,
            aws_access_key_id=settings.account,
            aws_secret_access_key=LOCAL_SECRET,
        )
        # A retry of CreateStack would meet the stack that the first attempt made.
        options = Config(retries={"total_max_attempts": 1}, read_timeout=300)
        self._s3 = session.client("s3", endpoint_url=settings.endpoint_url, config=options)
        self._stacks = session.client("cloudformation", endpoint_url=settings.endpoint_url, config=options)

    def deploy(self, assembly: Assembly) -> dict[str, str]:
        """Creates or updates every stack. Returns the outputs of all. Raises LocalCloudError."""
        for asset in assembly.file_assets:
            self._make_bucket(asset.bucket)
            self._s3.put_object(Bucket=asset.bucket, Key=asset.key, Body=asset.content())
        self._make_bucket(_TEMPLATES)
        outputs: dict[str, str] = {}
        for stack in assembly.stacks:
            outputs |= self._deploy_stack(stack)
        return outputs

    def outputs(self) -> dict[str, str]:
        """The outputs of the stacks that an earlier run has deployed."""
        stacks = self._stacks.describe_stacks()["Stacks"]
        return {name: value for stack in stacks for name, value in self._outputs_of(dict(stack)).items()}

    def _make_bucket(self, bucket: str) -> None:
        try:
            self._s3.create_bucket(Bucket=bucket)
        except (self._s3.exceptions.BucketAlreadyOwnedByYou, self._s3.exceptions.BucketAlreadyExists):
            return

    def _deploy_stack(self, stack: StackTemplate) -> dict[str, str]:
        key = f"{stack.name}.json"
        self._s3.put_object(Bucket=_TEMPLATES, Key=key, Body=stack.body.encode())  # too long for TemplateBody
        request: dict[str, Any] = {
            "StackName": stack.name,
            "TemplateURL": f"{self._settings.endpoint_url}/{_TEMPLATES}/{key}",
            "Capabilities": _CAPABILITIES,
        }
        status = self._status(stack.name)
        try:
            if status in _STILLBORN:
                self._stacks.delete_stack(StackName=stack.name)
                self._settled(stack.name)
                status = None
            if status is None:
                self._stacks.create_stack(**request)
            else:
                self._stacks.update_stack(**request)
        except ClientError as error:
            if "No updates are to be performed" not in str(error):
                raise LocalCloudError(
                    f"Stack {stack.name} was refused: {error.response['Error']['Message']}",
                    "Correct the template, or leave out locally what the emulator lacks.",
                ) from error
        deployed = self._settled(stack.name)
        if deployed is None or deployed["StackStatus"] not in _GOOD:
            raise self._why(stack.name, deployed)
        return self._outputs_of(deployed)

    def _status(self, name: str) -> str | None:
        stack = self._describe(name)
        return str(stack["StackStatus"]) if stack and stack["StackStatus"] != "DELETE_COMPLETE" else None

    def _describe(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(self._stacks.describe_stacks(StackName=name)["Stacks"][0])
        except ClientError as error:
            if "does not exist" in str(error):
                return None
            raise

    def _settled(self, name: str) -> dict[str, Any] | None:
        while True:
            stack = self._describe(name)
            if stack is None or not stack["StackStatus"].endswith("IN_PROGRESS"):
                return stack
            time.sleep(0.05)

    def _why(self, name: str, stack: dict[str, Any] | None) -> LocalCloudError:
        """Names the resource that failed first."""
        newest_first = self._stacks.describe_stack_events(StackName=name)["StackEvents"]
        failed = [
            event
            for event in reversed(newest_first)
            if event["ResourceStatus"].endswith("FAILED") and event["LogicalResourceId"] != name
        ]
        status = stack["StackStatus"] if stack else "gone"
        reason = (stack or {}).get("StackStatusReason", "no reason given")
        if failed:
            reason = (
                f"{failed[0]['LogicalResourceId']} ({failed[0]['ResourceType']}): "
                f"{failed[0].get('ResourceStatusReason', 'no reason given')}"
            )
        return LocalCloudError(f"Stack {name} is {status}: {reason}.", "Correct the template and start again.")

    def _outputs_of(self, stack: dict[str, Any]) -> dict[str, str]:
        return {
            output["OutputKey"]: path_form(output["OutputValue"], self._settings.endpoint_url)
            for output in stack.get("Outputs", [])
        }


def path_form(value: str, endpoint_url: str) -> str:
    """An execute-api URL in a form that needs no DNS; any other value as it is."""
    found = _EXECUTE_API.fullmatch(value)
    if not found:
        return value
    stage = found["stage"].rstrip("/") or "$default"  # an HTTP API's default stage is not in its URL
    return f"{endpoint_url}/_aws/execute-api/{found['api']}/{stage}"
