"""Who may do what: no wildcard actions, no managed policies, roles passed to SageMaker only."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.infra.synthesis import Resource, Synthesis, listed, statements

# Actions that know no resource, and those on things that have no name yet. Each: why it is needed at all.
WITHOUT_RESOURCE = {
    "ecr:GetAuthorizationToken": "SageMaker pulls the image; the token opens only what the role may pull",
    "cloudwatch:PutMetricData": "SageMaker's metrics of jobs and endpoints; a condition names the namespaces",
    "xray:PutTraceSegments": "tracing",
    "xray:PutTelemetryRecords": "tracing",
    "xray:GetSamplingRules": "tracing of the state machine",
    "xray:GetSamplingTargets": "tracing of the state machine",
    "application-autoscaling:RegisterScalableTarget": "scaling of endpoints; a condition names SageMaker's",
    "application-autoscaling:DeregisterScalableTarget": "removal of endpoints; a condition names SageMaker's",
    "application-autoscaling:PutScalingPolicy": "scaling of endpoints; a condition names SageMaker's",
    "sagemaker:ListModels": "removal: finds ours by their role",
    "sagemaker:ListEndpoints": "removal: finds ours by their models",
    "sagemaker:ListTrainingJobs": "removal: finds ours by their role",
    "ec2:DescribeNetworkInterfaces": "endpoints in a network: SageMaker's interfaces, and whether they are gone",
    "ec2:DescribeVpcs": "endpoints in a network",
    "ec2:DescribeDhcpOptions": "endpoints in a network",
    "ec2:DescribeSubnets": "endpoints in a network",
    "ec2:DescribeSecurityGroups": "endpoints in a network",
    # log delivery of a state machine: https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html
    **dict.fromkeys(
        (
            *("logs:CreateLogDelivery", "logs:GetLogDelivery", "logs:UpdateLogDelivery", "logs:DeleteLogDelivery"),
            *("logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:DescribeResourcePolicies"),
            "logs:DescribeLogGroups",
        ),
        "the state machine's log",
    ),
}

# Wider than what is ours -> why.
WIDER = {
    "logs:log-group:/aws/sagemaker/TrainingJobs:*": "SageMaker's, of all jobs; streams are made in it",
    "ec2:network-interface/*": "SageMaker names them; subnets, or a condition on the network, are the limit",
}

# Start of a role's logical id -> the only keys that it may write.
WRITES = {
    "IntakeTakeDataset": {"manifests/*"},
    "TrainingCheckDataset": {"snapshots/*", "reports/*"},
    "TrainingRole": {"models/*", "checkpoints/*"},
    "TrainingPublishModel": {"models/*/manifest.json", "class-images/*"},
    "HostingHostModel": {"models/*/promoted.json"},
    "HostingRole": {"inference/output/*", "inference/failure/*"},
    "HostingRecordGeneration": {"generations/*"},
    "ApiFunction": {"sources/*"},
}

# The same for what may be deleted, and whose former versions may be listed.
PICTURES = {"generations/*", "inference/output/*", "inference/failure/*"}
MADE_OF_SUBJECTS = {
    f"{folder}/*" for folder in ("datasets", "manifests", "snapshots", "reports", "checkpoints", "models")
}
DELETES = {
    "DeletionDeleteSubject": {*MADE_OF_SUBJECTS, *PICTURES, "class-images/*"},
    "HostingRecordGeneration": PICTURES,
}

# The same for what three of them may read: the rest of the bucket is none of their business.
READS = {
    "HostingHostModel": {"base-models/*/manifest.json", "models/*/promoted.json"},
    "KeepingKeepEndpoint": {"base-models/*/manifest.json", "models/*/manifest.json"},
    "HostingRole": {"base-models/*", "models/*", "sources/*"},
    "ApiFunction": {"generations/*", "checkpoints/*/progress.json", "models/*/manifest.json", "sources/*"},
}


def allowances(synthesis: Synthesis) -> list[tuple[str, Resource]]:
    found = statements(synthesis.properties("AWS::IAM::Policy"))
    for name, role in synthesis.properties("AWS::IAM::Role").items():
        found += [(name, one) for policy in role.get("Policies", []) for one in policy["PolicyDocument"]["Statement"]]
    return [(name, one) for name, one in found if one["Effect"] == "Allow"]


def text(value: Any) -> str:
    return json.dumps(value)


def rendered(resource: Any) -> str:
    """Without what every ARN of ours has in common; what is ours by reference in angle brackets."""
    if isinstance(resource, str):
        return resource
    [(function, value)] = resource.items()
    if function == "Fn::Join":
        separator, parts = value
        arn = str(separator).join(rendered(part) for part in parts)
        return arn.removeprefix("arn:<AWS::Partition>:").replace(":<AWS::Region>:<AWS::AccountId>:", ":", 1)
    if function in ("Fn::Select", "Fn::Split"):
        return rendered(value[1])
    return f"<{value if isinstance(value, str) else value[0]}>"


def all_allowances(synthesis: Synthesis) -> list[tuple[str, Resource]]:
    """Of roles and of resources."""
    kinds = ("AWS::S3::BucketPolicy", "AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy", "AWS::EC2::VPCEndpoint")
    found = [one for kind in kinds for one in statements(synthesis.properties(kind))]
    keys = synthesis.properties("AWS::KMS::Key").items()
    found += [(name, one) for name, key in keys for one in key["KeyPolicy"]["Statement"]]
    return allowances(synthesis) + [(name, one) for name, one in found if one["Effect"] == "Allow"]


def test_no_policy_allows_a_family_of_actions(each: Synthesis) -> None:
    """But the key's: through it the account's administrators grant its use; without it nobody could any more."""
    wide = {
        (name, action, text(one.get("Principal")).rpartition(":")[2])
        for name, one in all_allowances(each)
        for action in listed(one["Action"])
        if "*" in action
    }
    assert wide == {(key, "kms:*", 'root"]]}}') for key in each.resources("AWS::KMS::Key")}
    assert not [name for name, one in all_allowances(each) if "NotAction" in one or "NotResource" in one]


def test_no_role_has_a_managed_policy(each: Synthesis) -> None:
    roles = each.properties("AWS::IAM::Role")
    others = 3 + len(each.resources("AWS::EC2::FlowLog"))  # the state machine, and SageMaker's two
    assert len(roles) == len(each.functions()) + others
    assert [name for name, role in roles.items() if role.get("ManagedPolicyArns")] == []


def test_a_role_is_assumed_by_one_service(each: Synthesis) -> None:
    for name, role in each.properties("AWS::IAM::Role").items():
        [trust] = role["AssumeRolePolicyDocument"]["Statement"]
        assert set(trust["Principal"]) == {"Service"}, name
        assert isinstance(trust["Principal"]["Service"], str), name


def test_every_resource_is_ours_or_the_action_knows_none(each: Synthesis) -> None:
    for name, one in allowances(each):
        for resource in map(rendered, listed(one["Resource"])):
            before, asterisk, _ = resource.partition("*")
            if resource == "*":
                assert set(listed(one["Action"])) <= set(WITHOUT_RESOURCE), name
            elif asterisk and resource not in WIDER:
                ours = re.sub(r"<AWS::\w+>", "", before)
                assert "<" in ours or ours.endswith("dreamdrop-"), (name, resource)


def test_every_exception_is_needed(
    local: Synthesis, sandbox: Synthesis, production: Synthesis, guarded: Synthesis
) -> None:
    found = [one for synthesis in (local, sandbox, production, guarded) for _, one in allowances(synthesis)]
    assert set(WIDER) <= {rendered(resource) for one in found for resource in listed(one["Resource"])}
    assert set(WITHOUT_RESOURCE) == {
        action for one in found if "*" in listed(one["Resource"]) for action in listed(one["Action"])
    }


def test_roles_are_passed_to_sagemaker_only_and_by_three_principals(each: Synthesis) -> None:
    passing = {name: one for name, one in allowances(each) if "iam:PassRole" in listed(one["Action"])}
    assert {name.partition("Role")[0] for name in passing} == {
        "HostingHostModel", "KeepingKeepEndpoint", "TrainingMachine"
    }  # fmt: skip
    for one in passing.values():
        assert one["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
        assert rendered(one["Resource"]) in ("<HostingRole4FF359EC>", "<TrainingRole4C1607BC>")


def test_sagemaker_is_touched_only_below_the_prefix(each: Synthesis) -> None:
    for name, one in allowances(each):
        actions = set(listed(one["Action"])) - set(WITHOUT_RESOURCE)
        if any(action.startswith("sagemaker:") for action in actions):
            for resource in listed(one["Resource"]):
                assert re.search(r":(model|endpoint|endpoint-config|training-job)/dreamdrop-\*", text(resource)), name


def test_the_state_machine_may_run_and_stop_training_jobs(production: Synthesis) -> None:
    own = [one for name, one in allowances(production) if name.startswith("TrainingMachineRole")]
    actions = {action for one in own for action in listed(one["Action"])}
    assert {f"sagemaker:{verb}TrainingJob" for verb in ("Create", "Describe", "Stop")} <= actions
    assert {"sagemaker:AddTags", "events:PutTargets", "events:PutRule", "events:DescribeRule"} <= actions
    invoked = next(one["Resource"] for one in own if one["Action"] == "lambda:InvokeFunction")
    assert sum("Fn::GetAtt" in resource for resource in invoked) == 8


def keys_of(synthesis: Synthesis, action: str) -> dict[str, set[str]]:
    """Logical id of a policy -> the keys on which it allows the action."""
    found: dict[str, set[str]] = {}
    for name, one in allowances(synthesis):
        if action in listed(one["Action"]):
            keys = {re.findall(r'"/([^"]+)"', text(resource))[0] for resource in listed(one["Resource"])}
            found.setdefault(name, set()).update(keys)
    return found


def test_each_role_writes_only_its_own_keys(production: Synthesis) -> None:
    written: dict[str, set[str]] = {}
    for name, keys in keys_of(production, "s3:PutObject").items():
        (role,) = [start for start in WRITES if name.startswith(start)]
        written.setdefault(role, set()).update(keys)
    assert written == WRITES


@pytest.mark.parametrize("role", READS)
def test_who_meets_callers_or_runs_models_reads_only_what_it_needs(production: Synthesis, role: str) -> None:
    [read] = [keys for name, keys in keys_of(production, "s3:GetObject").items() if name.startswith(role)]
    assert read == READS[role]


@pytest.mark.parametrize("action", ["s3:DeleteObject", "s3:DeleteObjectVersion"])
def test_two_roles_delete_and_only_what_shows_a_subject(production: Synthesis, action: str) -> None:
    deleted = {re.sub("RoleDefaultPolicy.*", "", name): keys for name, keys in keys_of(production, action).items()}
    assert deleted == DELETES


def test_former_versions_are_listed_only_where_they_are_deleted(production: Synthesis) -> None:
    listing = {
        re.sub("RoleDefaultPolicy.*", "", name): set(one["Condition"]["StringLike"]["s3:prefix"])
        for name, one in allowances(production)
        if "s3:ListBucketVersions" in listed(one["Action"])
    }
    assert listing == DELETES


LINES = {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["ENDPOINT#*"]}}


def test_only_the_deletion_removes_rows(production: Synthesis) -> None:
    """Others take requests out of the lines before endpoints, and touch no other rows in doing so."""
    allowed = [
        name
        for name, one in allowances(production)
        if "dynamodb:DeleteItem" in listed(one["Action"]) and one.get("Condition") != LINES
    ]
    assert [name.partition("Role")[0] for name in allowed] == ["DeletionDeleteSubject"]


def test_two_ends_stop_executions_a_subjects_and_the_stacks(production: Synthesis) -> None:
    (machine,) = production.resources("AWS::StepFunctions::StateMachine")
    allowed = [(name, one) for name, one in allowances(production) if "states:StopExecution" in listed(one["Action"])]
    assert {name.partition("Role")[0] for name, _ in allowed} == {"DeletionDeleteSubject", "RemovalRemoveEndpoints"}
    assert all(":execution:" in text(one["Resource"]) and machine in text(one["Resource"]) for _, one in allowed)


def test_only_the_api_and_a_deletion_that_takes_long_put_deletions_in_line(production: Synthesis) -> None:
    assert senders(production, "DeletionQueue") == {"ApiFunction", "DeletionDeleteSubject"}


def test_three_tell_news_of_endpoints(production: Synthesis) -> None:
    assert senders(production, "HostingNotices") == {"ApiFunction", "HostingHostModel", "KeepingKeepEndpoint"}


def senders(synthesis: Synthesis, queue: str) -> set[str]:
    return {
        name.partition("Role")[0]
        for name, one in allowances(synthesis)
        if "sqs:SendMessage" in listed(one["Action"])
        and any(resource["Fn::GetAtt"][0].startswith(queue) for resource in listed(one["Resource"]))
    }


def test_only_the_api_and_who_makes_endpoints_again_ask_for_pictures(production: Synthesis) -> None:
    action = "sagemaker:InvokeEndpointAsync"
    asking = {name.partition("Role")[0] for name, one in allowances(production) if action in listed(one["Action"])}
    assert asking == {"ApiFunction", "KeepingKeepEndpoint"}


def test_only_rules_and_our_topics_may_send_to_the_queues(each: Synthesis) -> None:
    sending = [one for _, one in statements(each.properties("AWS::SQS::QueuePolicy")) if one["Effect"] == "Allow"]
    assert len(sending) == 10  # what could not be delivered is set aside by the same senders
    for one in sending:
        assert one["Principal"]["Service"] in ("events.amazonaws.com", "sns.amazonaws.com")
        assert set(one["Condition"]["ArnEquals"]) == {"aws:SourceArn"}
