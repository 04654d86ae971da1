"""What cdk-nag finds and is meant so, each with its reason; anything else is a defect.

python -m tests.infra.nag production      names every finding of an environment that is not acknowledged, and fails
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from contracts.storage import (
    BASE_MODELS,
    CLASS_IMAGE_SETS,
    GENERATIONS,
    INFERENCE,
    MADE_OF_A_SUBJECT,
    SOURCES,
)
from tests.infra.synthesis import Finding, synthesize

FOLDERS = "|".join((*MADE_OF_A_SUBJECT, BASE_MODELS, CLASS_IMAGE_SETS, GENERATIONS, INFERENCE, SOURCES))
POLICY = "Role/DefaultPolicy/Resource"
AT_RUN_TIME = "made at run time, so only the prefix of its name is known"


@dataclass(frozen=True)
class Acknowledgement:
    """`rule` and `construct` are patterns of the whole text, as `readable` gives it."""

    rule: str
    construct: str
    reason: str

    def covers(self, finding: Finding) -> bool:
        rule, construct = readable(finding)
        return bool(re.fullmatch(self.rule, rule) and re.fullmatch(self.construct, construct))


def wildcard(resource: str) -> str:
    return rf"IAM5\[Resource::{resource}\]"


ENDPOINTS = r"(Hosting/HostModel|Keeping/KeepEndpoint|Removal/RemoveEndpoints|Deletion/DeleteSubject)"

# Which role may do what to which resource is pinned by test_permissions.py; here is why an asterisk stands in it.
ACKNOWLEDGED = (
    Acknowledgement(
        wildcard(rf"<DataBucket>/({FOLDERS}).*"),
        rf"[\w/]+{POLICY}",
        "the keys below one folder of the data bucket, which are the subjects' names",
    ),
    Acknowledgement(
        wildcard(r"\*"),
        rf"(Hosting|Keeping|Training|Removal|Intake|Deletion|Api)/(?!Role)\w+{POLICY}",
        "X-Ray takes segments from whoever may send them: its two actions know no resource",
    ),
    Acknowledgement(
        wildcard(r"\*"),
        rf"Training/Machine/{POLICY}",
        "X-Ray, and the delivery of the machine's log: CloudWatch Logs asks for both without a resource",
    ),
    Acknowledgement(
        wildcard(r"\*"),
        rf"(Hosting|Training)/{POLICY}",
        "pulling an image, metrics (a condition names the namespaces) and ec2:Describe…: actions that know no resource",
    ),
    Acknowledgement(
        wildcard(r"ec2:network-interface/\*"),
        rf"Hosting/{POLICY}",
        "SageMaker makes them and gives them their names; the subnets and a condition on the network are the limit",
    ),
    Acknowledgement(
        wildcard(r"\*"),
        rf"{ENDPOINTS}{POLICY}",
        "a scalable target has an opaque id: a condition names SageMaker's namespace; lists know no resource",
    ),
    Acknowledgement(
        wildcard(r"sagemaker:(model|endpoint|endpoint-config|training-job)/dreamdrop-\*"),
        rf"({ENDPOINTS}|Api/Function|Training/(Machine/|SettleTraining|Recover|CloseExecution)){POLICY}",
        AT_RUN_TIME,
    ),
    Acknowledgement(
        wildcard(r"cloudwatch:alarm:(TargetTracking-endpoint/)?dreamdrop-\*"),
        rf"{ENDPOINTS}{POLICY}",
        AT_RUN_TIME,
    ),
    Acknowledgement(
        wildcard(
            r"logs:log-group:/aws/sagemaker/(Endpoints/dreamdrop-\*|TrainingJobs)(:\*|:log-stream:(dreamdrop-)?\*)?"
        ),
        rf"(Hosting|Training)/{POLICY}",
        "SageMaker makes these log groups and their streams itself, under the role of what it runs",
    ),
    Acknowledgement(
        wildcard(r"<(Training|Hosting)\w+\.Arn>:\*"),
        rf"Training/Machine/{POLICY}",
        "the versions of one function: Step Functions may name one when it calls",
    ),
    Acknowledgement(
        wildcard(r"states:execution:.+:\*"),
        rf"(Deletion/DeleteSubject|Removal/RemoveEndpoints){POLICY}",
        "the executions of this one machine, which are named for the runs",
    ),
    Acknowledgement(
        "APIG4",
        r"Api/Api/GET--(v1--openapi\.json)?/Resource",
        "the page and the contract are for everybody: they hold nothing of anybody",
    ),
    Acknowledgement(
        "SQS3",
        r"Training/(Unsettled)?DeadLetters/Resource",
        "they are dead-letter queues: of a rule and of a function's asynchronous calls, which the rule does not see",
    ),
    Acknowledgement(
        "S1",
        "DataBucket/Resource",
        "access logs are a setting, on in production",
    ),
)


def readable(finding: Finding) -> tuple[str, str]:
    """(rule, construct) without the pack's name, the stack's and what every ARN of ours has in common."""
    rule = finding.rule.removeprefix("AwsSolutions-")
    rule = re.sub(r"dreamdrop-data:ExportsOutputFnGetAttDataBucket\w+Arn\w+", "<DataBucket>", rule)
    rule = re.sub(r"arn:<AWS::Partition>:(\w+):<AWS::Region>:<AWS::AccountId>:", r"\1:", rule)
    return rule, re.sub(r"^dreamdrop-(data|service)/", "", finding.construct)


def unacknowledged(findings: Iterable[Finding]) -> list[str]:
    return [
        "{} at {}".format(*readable(finding))
        for finding in findings
        if not any(one.covers(finding) for one in ACKNOWLEDGED)
    ]


def main(environment: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        findings = synthesize(environment, Path(folder)).findings
    if defects := unacknowledged(findings):
        raise SystemExit(f"cdk-nag, {environment}:\n" + "\n".join(defects))
    sys.stdout.write(f"cdk-nag, {environment}: nothing but {len(findings)} acknowledged findings\n")


if __name__ == "__main__":
    main(sys.argv[1])
