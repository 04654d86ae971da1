"""A local cloud with IAM enforced and its decisions written down, and a subject that became ready in it."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config

os.environ |= {"POWERTOOLS_SERVICE_NAME": "test", "POWERTOOLS_METRICS_NAMESPACE": "test"}  # read when imported

from contracts.pipeline import EndpointNotice
from dreamdrop.local import process
from dreamdrop.up import free_port
from lambdas.domain.endpoints import own_endpoint_name
from tests.e2e.conftest import TINY, Cloud, dataset_info, import_tiny_base_model, photo, until
from tests.grants.admission import Admission, Decisions, Ledger
from tests.grants.granted import Grant, grants
from tests.infra.synthesis import Synthesis
from tests.synthesized import synthesized

READY = "ball"
PREFIX = "dreamdrop"
SHARED = f"{PREFIX}-{TINY}"
OWN = own_endpoint_name(PREFIX, READY)
_DENIED = re.compile(r"\((AccessDenied\w*|AuthorizationError\w*)\) when calling the (\w+) operation")


@dataclass
class Bench:
    """The cloud, and what the tests do with its parts directly."""

    cloud: Cloud
    grants: list[Grant]
    ledger: Ledger
    decisions: Decisions
    physical: dict[str, str]
    """Logical id -> physical name, of the service stack."""

    def __post_init__(self) -> None:
        deployment = self.cloud.deployment
        patient = Config(read_timeout=300, retries={"total_max_attempts": 1})
        self._functions = deployment.session().client("lambda", endpoint_url=deployment.endpoint_url, config=patient)

    def client(self, service: str) -> Any:
        return self.cloud.deployment.client(service)

    def named(self, start: str) -> str:
        """The physical name of the one resource whose logical id is this, a hash left out."""
        (name,) = [name for logical, name in self.physical.items() if re.fullmatch(f"{start}[0-9A-F]{{8}}", logical)]
        return name

    def admission(self, role: str) -> Admission:
        mine = [grant for grant in self.grants if grant.role == role]
        return Admission(self.cloud.deployment, self.decisions, self.ledger, self.named(role), mine)

    def invoke(self, function: str, event: Any) -> tuple[Any, str]:
        """(answer, how it failed)."""
        answer = self._functions.invoke(
            FunctionName=self.named(function), Payload=json.dumps(event).encode(), LogType="Tail"
        )
        body = json.loads(answer["Payload"].read() or b"null")
        log = base64.b64decode(answer.get("LogResult", "")).decode(errors="replace")
        if "FunctionError" not in answer:
            return body, ""
        return body, denial(json.dumps(body) + log) or f"{body.get('errorType')}: {body.get('errorMessage')}"

    def flow(self, function: str, event: Any) -> Callable[[], str]:
        return lambda: self.invoke(function, event)[1]

    def message(self, queue: str) -> dict[str, Any]:
        """The next message of a queue, as Lambda hands it to a function; it is gone then."""
        event = self.received(queue)
        handle = event["Records"][0]["receiptHandle"]
        self.client("sqs").delete_message(QueueUrl=self.named(queue), ReceiptHandle=handle)
        return event

    def received(self, queue: str) -> dict[str, Any]:
        """The same, while it is still in the queue."""
        sqs, url = self.client("sqs"), self.named(queue)

        def receive() -> dict[str, Any] | None:
            found = sqs.receive_message(QueueUrl=url, AttributeNames=["All"]).get("Messages", [])
            return dict(found[0]) if found else None

        found = until(f"a message in {queue}", receive)
        return {
            "Records": [
                {
                    "messageId": found["MessageId"], "receiptHandle": found["ReceiptHandle"], "body": found["Body"],
                    "attributes": found["Attributes"], "messageAttributes": {}, "md5OfBody": found["MD5OfBody"],
                    "eventSource": "aws:sqs", "eventSourceARN": "arn:aws:sqs:us-east-1:1:q", "awsRegion": "us-east-1",
                }
            ]
        }  # fmt: skip

    def news_of(self, wanted: EndpointNotice) -> dict[str, Any]:
        """From the hosting queue; what else the tests do to endpoints is passed over."""
        while True:
            event = self.message("HostingNotices")
            if EndpointNotice.model_validate_json(event["Records"][0]["body"]) == wanted:
                return event

    def notice_of(self, generation: str) -> dict[str, Any]:
        """The endpoint's notice; those of former requests are passed over."""
        while True:
            event = self.message("HostingAnswers")
            if json.loads(event["Records"][0]["body"])["inferenceId"] == generation:
                return event

    def state_inputs(self) -> dict[str, dict[str, Any]]:
        """State -> what it was given in the run of the ready subject."""
        (execution,) = [one for one in self.cloud.executions() if one["name"].startswith(f"{READY}-")]
        history = self.client("stepfunctions").get_execution_history(
            executionArn=execution["executionArn"], maxResults=1000
        )
        entered = [e["stateEnteredEventDetails"] for e in history["events"] if "stateEnteredEventDetails" in e]
        return {one["name"]: json.loads(one["input"]) for one in reversed(entered)}

    def endpoint_is(self, status: str, name: str = SHARED) -> bool:
        found = self.client("sagemaker").list_endpoints()["Endpoints"]
        return [one["EndpointStatus"] for one in found if one["EndpointName"] == name] == ([status] if status else [])

    def until_endpoint_is(self, status: str, name: str = SHARED) -> None:
        until(f"the endpoint {name} is {status or 'gone'}", lambda: self.endpoint_is(status, name))


def denial(text: str) -> str:
    found = _DENIED.search(text)
    return f"{found[1]} when calling {found[2]}" if found else ""


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    cdk_out = synthesized()
    folder = tmp_path_factory.mktemp("grants")
    port, decisions = free_port(0), folder / "decisions.jsonl"
    started = process.start(cdk_out, folder / "state", port, auth=True, log=folder / "cloud.log", decisions=decisions)
    cloud = Cloud(started, port, folder / "state")
    try:
        import_tiny_base_model(cloud.deployment, folder / TINY)
        yield _furnished(cloud, decisions)
    finally:
        cloud.running.stop()


def _furnished(cloud: Cloud, decisions: Path) -> Bench:
    prior = {"with_prior_preservation": True, "num_class_images": 1, "train_batch_size": 1}
    cloud.drop(READY, {"a.png": photo(1), "dataset_info.json": dataset_info(2, **prior)})
    cloud.client.wait_until_ready(READY, poll_seconds=0.2)
    # From now on the tests take the messages themselves.
    functions = cloud.deployment.client("lambda")
    for source in functions.list_event_source_mappings()["EventSourceMappings"]:
        functions.update_event_source_mapping(UUID=source["UUID"], Enabled=False)
    stack = cloud.deployment.client("cloudformation").describe_stack_resources(StackName="dreamdrop-service")
    physical = {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in stack["StackResources"]}
    return Bench(cloud, grants(Synthesis(synthesized())), Ledger(), Decisions(decisions), physical)


@pytest.fixture(scope="session")
def rows(bench: Bench) -> Iterator[str]:
    """The table's name; the product's own code reaches the local table from this process."""
    deployment = bench.cloud.deployment
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": str(deployment.endpoint_url), "AWS_DEFAULT_REGION": deployment.region,
            "AWS_ACCESS_KEY_ID": str(deployment.account), "AWS_SECRET_ACCESS_KEY": "local",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        yield deployment.table_name
