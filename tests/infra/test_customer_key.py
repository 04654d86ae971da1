"""The customer's own key: what is under it, and who may use it for what."""

from __future__ import annotations

import re
from typing import Any

from contracts.environment import HostEnvironment, PlanEnvironment
from tests.infra.synthesis import Synthesis, listed, statements
from tests.infra.test_data_stack import ACCESS_LOGS, BUCKET, KEY, TABLE
from tests.infra.test_permissions import text

EXPORTED = f"ExportsOutputFnGetAtt{KEY}Arn"
OF_THE_DATA_STACK = {"Fn::GetAtt": [KEY, "Arn"]}

# What a role may do -> through which service it uses the key, and how.
READ = {"kms:Decrypt"}
WRITE = {"kms:Decrypt", "kms:GenerateDataKey"}
ROWS = {*WRITE, "kms:DescribeKey", "kms:Encrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo"}
NEEDS = {
    "s3:GetObject": ("s3", READ),
    "s3:PutObject": ("s3", WRITE),
    "dynamodb:GetItem": ("dynamodb", ROWS),
    "sns:Publish": ("sns", WRITE),
    "sqs:SendMessage": ("sqs", WRITE),
    "sqs:ReceiveMessage": ("sqs", READ),
}


def is_ours(value: Any) -> bool:
    return EXPORTED in text(value)


def rights(synthesis: Synthesis) -> dict[str, list[dict[str, Any]]]:
    """Policy of a role -> its statements."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, one in statements(synthesis.properties("AWS::IAM::Policy")):
        found.setdefault(name, []).append(one)
    return found


def uses(own: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Service -> what the role may do with the key through it; "" for what it may do with it directly."""
    found: dict[str, set[str]] = {}
    for one in own:
        actions = {action for action in listed(one["Action"]) if action.startswith("kms:")}
        if actions:
            assert is_ours(one["Resource"]), one
            via = text(one.get("Condition", {}).get("StringEquals", {}).get("kms:ViaService", ""))
            found.setdefault(via.partition(".")[0].rpartition('"')[2], set()).update(actions)
    return found


def test_without_the_setting_there_is_no_key_to_pay_for(local: Synthesis, sandbox: Synthesis) -> None:
    for synthesis in (local, sandbox):
        assert synthesis.resources("AWS::KMS::Key") == {}
        assert "kms:" not in text([synthesis.data, synthesis.service])
        assert "Kms" not in text([synthesis.data, synthesis.service])


def test_the_key_rotates(production: Synthesis) -> None:
    assert production.properties("AWS::KMS::Key")[KEY]["EnableKeyRotation"] is True


def test_everything_at_rest_is_under_it(production: Synthesis) -> None:
    buckets = production.properties("AWS::S3::Bucket")
    [rule] = buckets[BUCKET]["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": OF_THE_DATA_STACK}
    assert rule["BucketKeyEnabled"] is True
    table = production.properties("AWS::DynamoDB::Table")[TABLE]
    assert table["SSESpecification"] == {
        "SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": OF_THE_DATA_STACK,
    }  # fmt: skip
    fields = {"SQS::Queue": "KmsMasterKeyId", "SNS::Topic": "KmsMasterKeyId", "Logs::LogGroup": "KmsKeyId"}
    for kind, field in fields.items():
        found = production.properties(f"AWS::{kind}")
        assert found
        assert [name for name, one in found.items() if not is_ours(one.get(field))] == []
    queues = production.properties("AWS::SQS::Queue").values()
    assert not any("SqsManagedSseEnabled" in queue for queue in queues)  # it would be one or the other


def test_s3_writes_its_log_under_a_key_of_its_own(production: Synthesis) -> None:
    [rule] = production.properties("AWS::S3::Bucket")[ACCESS_LOGS]["BucketEncryption"][
        "ServerSideEncryptionConfiguration"
    ]
    assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}


def test_a_role_may_use_it_for_what_it_may_do_and_for_nothing_else(production: Synthesis) -> None:
    users = 0
    for name, own in rights(production).items():
        needed: dict[str, set[str]] = {}
        actions = {action for one in own for action in listed(one["Action"])}
        for action, (service, on_key) in NEEDS.items():
            if action in actions:
                needed.setdefault(service, set()).update(on_key)
        if re.match("(Hosting|Training)Role", name):
            needed[""] = {"kms:Encrypt", "kms:DescribeKey"}
        assert uses(own) == needed, name
        users += bool(needed)
    assert users >= 12


def test_services_use_it_for_this_account_only(production: Synthesis) -> None:
    """But EventBridge, which does not say for whom: AWS refused it the key."""
    root, telling, silent, logs = production.properties("AWS::KMS::Key")[KEY]["KeyPolicy"]["Statement"]
    assert text(root["Principal"]).endswith(':root"]]}}')
    assert telling["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
    assert "Condition" not in silent
    assert silent["Principal"]["Service"] == "events.amazonaws.com"
    assert "log-group:dreamdrop-*" in text(logs["Condition"]["ArnLike"]["kms:EncryptionContext:aws:logs:arn"])


def test_every_service_that_delivers_to_a_queue_or_topic_may_use_it(production: Synthesis) -> None:
    """Otherwise alarms, rules and topics would fall silent."""
    _, telling, silent, _ = production.properties("AWS::KMS::Key")[KEY]["KeyPolicy"]["Statement"]
    senders = {
        one["Principal"]["Service"]
        for kind in ("AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy")
        for _, one in statements(production.properties(kind))
        if one["Effect"] == "Allow"
    }
    assert senders == {*telling["Principal"]["Service"], silent["Principal"]["Service"]}
    assert set(telling["Action"]) == set(silent["Action"]) == WRITE


def test_sagemaker_is_told_of_it(production: Synthesis) -> None:
    functions = production.functions()
    for handler, model in (
        ("lambdas.pipeline.plan_training.handler", PlanEnvironment),
        ("lambdas.hosting.host_model.handler", HostEnvironment),
    ):
        assert "output_key_arn" in model.model_fields
        assert is_ours(functions[handler]["Environment"]["Variables"]["OUTPUT_KEY_ARN"])


def test_a_volume_is_under_it_too_where_there_is_one(production: Synthesis, guarded: Synthesis) -> None:
    def host_model(synthesis: Synthesis) -> tuple[Any, list[Any]]:
        variables = synthesis.functions()["lambdas.hosting.host_model.handler"]["Environment"]["Variables"]
        own = next(own for name, own in rights(synthesis).items() if name.startswith("HostingHostModel"))
        return variables.get("VOLUME_KEY_ARN"), [one for one in own if "kms:CreateGrant" in listed(one["Action"])]

    assert host_model(production) == (None, [])
    variable, [handing_on] = host_model(guarded)
    assert is_ours(variable)
    assert is_ours(handing_on["Resource"])
    assert handing_on["Condition"] == {"Bool": {"kms:GrantIsForAWSResource": "true"}}
