"""What holds for everything of a kind, in every environment: a new resource without it fails here."""

from __future__ import annotations

import pytest

from tests.infra.synthesis import Resource, Synthesis, statements

POLICIES = {
    "AWS::S3::Bucket": "AWS::S3::BucketPolicy",
    "AWS::SQS::Queue": "AWS::SQS::QueuePolicy",
    "AWS::SNS::Topic": "AWS::SNS::TopicPolicy",
}
PUBLIC_FUNCTION = "AWS::Lambda::Url"


def all_of(synthesis: Synthesis, kind: str) -> list[tuple[str, Resource]]:
    found = list(synthesis.properties(kind).items())
    assert found, f"there is no {kind}"
    return found


def resource_policies(synthesis: Synthesis) -> list[tuple[str, Resource]]:
    return [found for kind in POLICIES.values() for found in statements(synthesis.properties(kind))]


def test_every_bucket_is_private_and_encrypted(each: Synthesis) -> None:
    switches = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    blocked = dict.fromkeys(switches, True)
    for name, bucket in all_of(each, "AWS::S3::Bucket"):
        assert bucket["PublicAccessBlockConfiguration"] == blocked, name
        assert bucket["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}, name
        assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"], name
        assert not {"AccessControl", "WebsiteConfiguration"} & set(bucket), name


def test_every_bucket_forgets_abandoned_uploads(each: Synthesis) -> None:
    for name, bucket in all_of(each, "AWS::S3::Bucket"):
        rules = bucket["LifecycleConfiguration"]["Rules"]
        assert {rule["Status"] for rule in rules} == {"Enabled"}, name
        [rule] = [rule for rule in rules if "AbortIncompleteMultipartUpload" in rule]
        assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}, name
        assert "Prefix" not in rule, name


def test_every_bucket_of_production_has_versions_or_is_the_log_of_one(production: Synthesis) -> None:
    buckets = production.properties("AWS::S3::Bucket")
    logs = {
        one["LoggingConfiguration"]["DestinationBucketName"]["Ref"]
        for one in buckets.values()
        if "LoggingConfiguration" in one
    }
    for name in set(buckets) - logs:
        assert buckets[name]["VersioningConfiguration"] == {"Status": "Enabled"}
        assert buckets[name]["LoggingConfiguration"]


def test_every_queue_is_encrypted(each: Synthesis) -> None:
    for name, queue in all_of(each, "AWS::SQS::Queue"):
        assert queue.get("SqsManagedSseEnabled") is True or queue.get("KmsMasterKeyId"), name


def test_the_table_can_be_restored(each: Synthesis) -> None:
    for name, table in all_of(each, "AWS::DynamoDB::Table"):
        assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}, name


@pytest.mark.parametrize("kind", POLICIES)
def test_every_bucket_queue_and_topic_refuses_plain_http(each: Synthesis, kind: str) -> None:
    refused = {"Bool": {"aws:SecureTransport": "false"}}
    denials = [
        str(one["Resource"])
        for _, one in statements(each.properties(POLICIES[kind]))
        if one["Effect"] == "Deny" and one["Principal"] in ("*", {"AWS": "*"}) and one.get("Condition") == refused
    ]
    assert [name for name, _ in all_of(each, kind) if not any(f"'{name}'" in denial for denial in denials)] == []


def test_no_resource_policy_lets_everybody_in(each: Synthesis) -> None:
    for name, one in resource_policies(each):
        if one["Effect"] == "Allow":
            assert set(one["Principal"]) == {"Service"}, name
            assert one["Condition"], name


def test_functions_are_called_by_one_named_caller_each(each: Synthesis) -> None:
    for name, permission in all_of(each, "AWS::Lambda::Permission"):
        assert permission["Principal"].endswith(".amazonaws.com"), name
        assert permission["SourceArn"], name
    assert each.resources(PUBLIC_FUNCTION) == {}


def test_every_log_is_forgotten_some_day_and_nothing_makes_one_of_its_own(each: Synthesis) -> None:
    groups = dict(all_of(each, "AWS::Logs::LogGroup"))
    assert [name for name, group in groups.items() if not group.get("RetentionInDays")] == []
    for name, function in all_of(each, "AWS::Lambda::Function"):
        assert function["LoggingConfig"]["LogGroup"]["Ref"] in groups, name


def test_functions_and_machine_are_traced(each: Synthesis) -> None:
    for name, function in all_of(each, "AWS::Lambda::Function"):
        assert function["TracingConfig"] == {"Mode": "Active"}, name
    for name, machine in all_of(each, "AWS::StepFunctions::StateMachine"):
        assert machine["TracingConfiguration"] == {"Enabled": True}, name


def test_every_route_knows_its_caller_but_the_page_and_the_contract(each: Synthesis) -> None:
    open_routes = [
        route["RouteKey"]
        for _, route in all_of(each, "AWS::ApiGatewayV2::Route")
        if route["AuthorizationType"] == "NONE"
    ]
    assert sorted(open_routes) == ["GET /", "GET /v1/openapi.json"]
