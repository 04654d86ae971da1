"""Grants that the local cloud cannot exercise, each with the page of AWS that asks for it. The only list by hand."""

from __future__ import annotations

import re

_DOCS = "https://docs.aws.amazon.com"
_LOGS_AND_PULL = f"{_DOCS}/sagemaker/latest/dg/sagemaker-roles.html"
_MACHINE_LOGS = f"{_DOCS}/step-functions/latest/dg/cw-logs.html"
_SCALING = f"{_DOCS}/autoscaling/application/userguide/security_iam_id-based-policy-examples.html"
_SQS = f"{_DOCS}/lambda/latest/dg/services-sqs-configure.html"
_SYNC = f"{_DOCS}/step-functions/latest/dg/sagemaker-iam.html"

# (pattern of the role, pattern of the action) -> page. The first that fits.
_PAGES = (
    # There are neither images nor CloudWatch here for SageMaker's two roles.
    ("HostingRole|TrainingRole", r"ecr:.*|logs:.*|cloudwatch:PutMetricData", _LOGS_AND_PULL),
    # Uploads in parts are aborted when they fail.
    (
        "HostingRole",
        "s3:AbortMultipartUpload",
        f"{_DOCS}/sagemaker/latest/dg/async-inference-create-endpoint-prerequisites.html",
    ),
    # The emulator writes a function's log itself, and traces nothing.
    (r"TrainingMachineRole", r"logs:.*", _MACHINE_LOGS),
    (r"TrainingMachineRole", r"xray:.*", f"{_DOCS}/step-functions/latest/dg/concepts-xray-tracing.html"),
    (r".*", r"logs:(CreateLogStream|PutLogEvents)", f"{_DOCS}/lambda/latest/dg/lambda-intro-execution-role.html"),
    (r".*", r"xray:Put(TraceSegments|TelemetryRecords)", f"{_DOCS}/lambda/latest/dg/services-xray.html"),
    # The emulator takes messages from a queue, and puts refused events into one, without asking the function's role.
    (
        "IntakeTakeDatasetRole|HostingRecordGenerationRole|KeepingKeepEndpointRole|DeletionDeleteSubjectRole",
        r"sqs:(ReceiveMessage|DeleteMessage|GetQueueAttributes)",
        _SQS,
    ),
    (
        "TrainingCloseExecutionRole|TrainingSettleTrainingRole",
        "sqs:SendMessage",
        f"{_DOCS}/lambda/latest/dg/invocation-async-retain-records.html",
    ),
    # For .sync, Step Functions makes a rule and reads tags in the machine's name.
    ("TrainingMachineRole", r"events:.*|sagemaker:ListTags", _SYNC),
    # What Application Auto Scaling does in the caller's name.
    (
        "HostingHostModelRole|KeepingKeepEndpointRole",
        r"sagemaker:DescribeEndpointConfig|iam:CreateServiceLinkedRole",
        _SCALING,
    ),
    # AWS says "no such key" only to those who may list, and "denied" to all others; the emulator says it to all.
    (
        "HostingHostModelRole|HostingRecordGenerationRole|KeepingKeepEndpointRole|TrainingCheckDatasetRole|ApiFunctionRole",
        "s3:ListBucket",
        f"{_DOCS}/AmazonS3/latest/API/API_GetObject.html",
    ),
)


def page_for(role: str, action: str) -> str | None:
    for whose, what, page in _PAGES:
        if re.fullmatch(whose, role) and re.fullmatch(what, action):
            return page
    return None
