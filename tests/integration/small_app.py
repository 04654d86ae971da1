"""A small synthesized application for the tests of the local cloud, written by hand: no CDK, no Node.js."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CODE = '''
import json, os, boto3

class Flaky(Exception): pass
class Broken(Exception): pass

def work(event, context):
    if event["kind"] == "broken":
        raise Broken("as asked")
    if event["kind"] == "flaky":
        table = boto3.resource("dynamodb").Table(os.environ["TABLE"])
        tries = table.update_item(Key={"pk": event["name"]}, UpdateExpression="ADD tries :one",
            ExpressionAttributeValues={":one": 1}, ReturnValues="UPDATED_NEW")["Attributes"]["tries"]
        if tries < 2:
            raise Flaky("not yet")
    return {**event, "worked": True}

def take(event, context):
    """Sets the batch's bad messages aside and writes down the others."""
    table, failed = boto3.resource("dynamodb").Table(os.environ["TABLE"]), []
    for record in event["Records"]:
        body = json.loads(record["body"])
        if "detail" in body:
            name = body["detail"]["object"]["key"] if "object" in body["detail"] else body["detail"]["name"]
            item = {"status": body["detail"].get("status", "dropped"), "input": body["detail"].get("input", "")}
        else:
            name, item = body["name"], {"status": "told"}
        if "poison" in name:
            failed.append({"itemIdentifier": record["messageId"]})
            continue
        table.put_item(Item={"pk": name, **item, "sent": record["attributes"]["SentTimestamp"],
            "received": record["attributes"]["ApproximateFirstReceiveTimestamp"]})
    return {"batchItemFailures": failed}

def overstep(event, context):
    try:
        boto3.client("sagemaker").list_training_jobs()
    except Exception as error:
        return str(error)
    return "allowed"
'''

TRAIN = """
import json, os, pathlib, sys, time
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
todo = json.loads((base / "input/config/hyperparameters.json").read_text())["do"]
if todo == "fail":
    (base / "output").mkdir(exist_ok=True)
    (base / "output/failure").write_text("out of paint")
    sys.exit(1)
if todo == "wait":
    time.sleep(600)
(base / "model/weights").write_text("w")
"""
DOCKERFILE = 'FROM scratch\nWORKDIR /opt/program\nCOPY train.py ./\nENTRYPOINT ["python", "/opt/program/train.py"]\n'

JOB_VERBS = ("Create", "Describe", "Stop")

MACHINE: dict[str, Any] = {
    "QueryLanguage": "JSONata",
    "StartAt": "Route",
    "TimeoutSeconds": 5,
    "States": {
        "Route": {
            "Type": "Choice",
            "Choices": [
                {"Condition": "{% $states.input.kind = 'slow' %}", "Next": "Slow"},
                {"Condition": "{% $states.input.kind = 'undecided' ? $states.input.maybe : false %}", "Next": "Slow"},
                {"Condition": "{% $states.input.kind = 'vague' ? 'yes' : false %}", "Next": "Slow"},
                {"Condition": "{% $states.input.kind = 'call' %}", "Next": "Call"},
                {"Condition": "{% $states.input.kind = 'train' %}", "Next": "Train"},
                {"Condition": "{% $states.input.kind = 'overstep' %}", "Next": "Overstep"},
            ],
            "Default": "Work",
        },
        "Slow": {"Type": "Wait", "Seconds": "{% $states.input.seconds %}", "Next": "Done"},
        "Train": {
            "Type": "Task",
            "Resource": "arn:aws:states:::sagemaker:createTrainingJob.sync",
            "Arguments": "{% $states.input.training_job %}",
            "Next": "Done",
        },
        "Call": {
            "Type": "Task",
            "Resource": "arn:aws:states:::aws-sdk:sagemaker:listTrainingJobs",
            "Arguments": "{% $states.input.request %}",
            "Next": "Done",
        },
        "Overstep": {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Arguments": {"FunctionName": "small-overstep"},
            "Next": "Done",
        },
        "Work": {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Arguments": {"FunctionName": "small-work", "Payload": "{% $states.input %}"},
            "Output": "{% $states.result.Payload %}",
            "Retry": [{"ErrorEquals": ["Flaky"], "IntervalSeconds": 1, "MaxAttempts": 2, "BackoffRate": 1}],
            "Catch": [
                {
                    "ErrorEquals": ["Broken"],
                    "Output": "{% $merge([$states.input, {'error': $states.errorOutput}]) %}",
                    "Next": "Failed",
                }
            ],
            "Next": "Done",
        },
        "Failed": {
            "Type": "Fail",
            "Error": "{% $states.input.error.Error %}",
            "Cause": "{% $states.input.error.Cause %}",
        },
        "Done": {"Type": "Succeed"},
    },
}


def function(name: str, *actions: str) -> dict[str, Any]:
    """A function of CODE and its role, which may do `actions` and write to its log."""
    policy = {"Effect": "Allow", "Action": ["logs:*", *actions], "Resource": "*"}
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    return {
        f"{name}Role": resource(
            "IAM::Role",
            AssumeRolePolicyDocument={"Version": "2012-10-17", "Statement": [trust]},
            Policies=[{"PolicyName": "may", "PolicyDocument": {"Version": "2012-10-17", "Statement": [policy]}}],
        ),
        f"{name}Function": resource(
            "Lambda::Function",
            FunctionName=f"small-{name}",
            Runtime="python3.12",
            Handler=f"code.{name}",
            Code={"S3Bucket": "assets-000000000000-us-east-1", "S3Key": "code.zip"},
            Role={"Fn::GetAtt": [f"{name}Role", "Arn"]},
            Layers=[{"Ref": "PowertoolsLayer"}],
            Timeout=10,
            Environment={"Variables": {"TABLE": {"Ref": "Table"}}},
        ),
    }


def machine_role() -> dict[str, Any]:
    """May do all of its tasks but one, and stop what it starts."""
    actions = ["lambda:InvokeFunction", "iam:PassRole", *(f"sagemaker:{verb}TrainingJob" for verb in JOB_VERBS)]
    trust = {"Effect": "Allow", "Principal": {"Service": "states.amazonaws.com"}, "Action": "sts:AssumeRole"}
    policies = [
        {"Effect": "Allow", "Action": actions, "Resource": "*"},
        {"Effect": "Deny", "Action": "lambda:InvokeFunction", "Resource": "*:function:small-overstep"},
    ]
    return resource(
        "IAM::Role",
        AssumeRolePolicyDocument={"Version": "2012-10-17", "Statement": [trust]},
        Policies=[{"PolicyName": "may", "PolicyDocument": {"Version": "2012-10-17", "Statement": policies}}],
    )


def resource(kind: str, **properties: Any) -> dict[str, Any]:
    return {"Type": f"AWS::{kind}", "Properties": properties}


def attribute(name: str, what: str = "Arn") -> dict[str, Any]:
    return {"Fn::GetAtt": [name, what]}


def rule(pattern: dict[str, Any]) -> dict[str, Any]:
    return resource("Events::Rule", EventPattern=pattern, Targets=[{"Id": "queue", "Arn": attribute("Queue")}])


def service_template() -> dict[str, Any]:
    may_send = {
        "Effect": "Allow",
        "Principal": {"Service": ["events.amazonaws.com", "sns.amazonaws.com"]},
        "Action": "sqs:SendMessage",
        "Resource": attribute("Queue"),
    }
    resources = {
        **function("work", "dynamodb:*", "s3:*"),
        **function("take", "dynamodb:PutItem", "sqs:*"),
        **function("overstep"),
        "Table": resource(
            "DynamoDB::Table",
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        ),
        "DeadLetters": resource("SQS::Queue", QueueName="small-dead"),
        "Queue": resource(
            "SQS::Queue",
            DelaySeconds=1,
            VisibilityTimeout=1,
            RedrivePolicy={"deadLetterTargetArn": attribute("DeadLetters"), "maxReceiveCount": 2},
        ),
        "QueuePolicy": resource(
            "SQS::QueuePolicy",
            Queues=[{"Ref": "Queue"}],
            PolicyDocument={"Version": "2012-10-17", "Statement": [may_send]},
        ),
        "Source": resource(
            "Lambda::EventSourceMapping",
            EventSourceArn=attribute("Queue"),
            FunctionName={"Ref": "takeFunction"},
            FunctionResponseTypes=["ReportBatchItemFailures"],
        ),
        "Dropped": rule({"source": ["aws.s3"], "detail": {"object": {"key": [{"prefix": "datasets/"}]}}}),
        "Ended": rule({"source": ["aws.states"], "detail": {"status": ["FAILED", "TIMED_OUT", "ABORTED"]}}),
        "Topic": resource("SNS::Topic", TopicName="small-topic"),
        "Told": resource(
            "SNS::Subscription",
            TopicArn={"Ref": "Topic"},
            Protocol="sqs",
            Endpoint=attribute("Queue"),
            RawMessageDelivery=True,
        ),
        "Machine": resource(
            "StepFunctions::StateMachine",
            StateMachineName="small-machine",
            DefinitionString=json.dumps(MACHINE),
            RoleArn=attribute("MachineRole"),
        ),
        "MachineRole": machine_role(),
    }
    return {
        "Parameters": {
            "BootstrapVersion": ssm("/cdk-bootstrap/hnb659fds/version"),
            "PowertoolsLayer": ssm("/aws/service/powertools/python/x86_64/python3.12/latest"),
        },
        "Resources": resources,
        "Outputs": outputs(
            ApiUrl="https://abc123.execute-api.us-east-1.amazonaws.com",
            TableName={"Ref": "Table"},
            StateMachineArn={"Ref": "Machine"},
            SubjectTopicArn={"Ref": "Topic"},
            DeadLetters="{}",
        ),
    }


def ssm(name: str) -> dict[str, str]:
    return {"Type": "AWS::SSM::Parameter::Value<String>", "Default": name}


def outputs(**values: Any) -> dict[str, Any]:
    return {name: {"Value": value} for name, value in values.items()}


def data_template() -> dict[str, Any]:
    bucket = resource(
        "S3::Bucket",
        BucketName="small-data",
        NotificationConfiguration={"EventBridgeConfiguration": {"EventBridgeEnabled": True}},
    )
    only_tls = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": ["arn:aws:s3:::small-data", "arn:aws:s3:::small-data/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    policy = resource(
        "S3::BucketPolicy",
        Bucket={"Ref": "Bucket"},
        PolicyDocument={"Version": "2012-10-17", "Statement": [only_tls]},
    )
    return {
        "Resources": {"Bucket": bucket, "Policy": policy},
        "Outputs": outputs(DataBucketName={"Ref": "Bucket"}),
    }


def write_assembly(folder: Path, **templates: dict[str, Any]) -> Path:
    """Each later stack depends on the former one and stands before it in the manifest."""
    (folder / "code").mkdir(parents=True)
    (folder / "code/code.py").write_text(CODE)
    (folder / "image").mkdir()
    (folder / "image/train.py").write_text(TRAIN)
    (folder / "image/Dockerfile").write_text(DOCKERFILE)
    destination = {"bucketName": "assets-${AWS::AccountId}-${AWS::Region}", "objectKey": "code.zip"}
    asset = {"source": {"path": "code", "packaging": "zip"}, "destinations": {"here": destination}}
    image = {"source": {"directory": "image"}, "destinations": {"here": {"imageTag": "painter"}}}
    assets = {"files": {"code": asset}, "dockerImages": {"painter": image}}
    (folder / "app.assets.json").write_text(json.dumps(assets))
    artifacts: dict[str, Any] = {"assets": {"type": "cdk:asset-manifest", "properties": {"file": "app.assets.json"}}}
    before = "assets"
    for name, template in templates.items():
        (folder / f"{name}.template.json").write_text(json.dumps(template))
        properties = {"templateFile": f"{name}.template.json", "stackName": f"small-{name}"}
        stack = {"type": "aws:cloudformation:stack", "properties": properties, "dependencies": [before]}
        artifacts, before = {name: stack, **artifacts}, name
    (folder / "manifest.json").write_text(json.dumps({"artifacts": artifacts}))
    return folder
