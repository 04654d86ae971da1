"""What must survive, survives."""

from __future__ import annotations

from contracts.generation import KEEP_GENERATIONS_DAYS, KEEP_SOURCES_DAYS
from infra import settings
from infra.constructs.training_pipeline import TRAINING_EVENTS_RULE, TRAINING_LOG_GROUP
from tests.infra.synthesis import Synthesis
from tests.synthesized import PROJECT

BUCKET = "DataBucketE3889A50"
TABLE = "TableCD117FA1"
ACCESS_LOGS = "AccessLogs8B620ECA"
KEY = "Key961B73FD"


def test_the_logical_ids_of_buckets_table_and_key_never_change(local: Synthesis, production: Synthesis) -> None:
    assert set(local.resources("AWS::S3::Bucket")) == {BUCKET}
    assert set(production.resources("AWS::S3::Bucket")) == {BUCKET, ACCESS_LOGS}
    assert list(production.resources("AWS::DynamoDB::Table")) == [TABLE]
    assert list(production.resources("AWS::KMS::Key")) == [KEY]
    assert {BUCKET, ACCESS_LOGS, TABLE, KEY} <= set(production.data["Resources"])


def test_of_the_service_stack_only_logs_stay_when_it_is_deleted(production: Synthesis, local: Synthesis) -> None:
    def kept(synthesis: Synthesis) -> set[str]:
        resources = synthesis.service["Resources"].values()
        return {one["Type"] for one in resources if "Retain" in one.get("DeletionPolicy", "Delete")}

    assert kept(production) == {"AWS::Logs::LogGroup"}
    assert kept(local) == set()


def test_the_runbook_says_how_a_protected_stack_is_removed_and_what_stays() -> None:
    removal = (PROJECT / "docs" / "operations.md").read_text().partition("## Removing it")[2]
    assert settings.PRODUCTION.termination_protection
    assert "--no-enable-termination-protection --stack-name dreamdrop-service" in removal
    assert "--no-deletion-protection-enabled" in removal
    assert TRAINING_LOG_GROUP in removal
    assert TRAINING_EVENTS_RULE in removal


def test_production_keeps_its_data_when_the_stack_is_deleted(production: Synthesis) -> None:
    for name in (BUCKET, ACCESS_LOGS, TABLE, KEY):
        resource = production.data["Resources"][name]
        assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == ("Retain", "Retain")
    table = production.data["Resources"][TABLE]["Properties"]
    assert table["DeletionProtectionEnabled"] is True
    assert production.data["Resources"][BUCKET]["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}


def test_the_local_cloud_leaves_nothing_behind(local: Synthesis) -> None:
    assert {local.data["Resources"][name]["DeletionPolicy"] for name in (BUCKET, TABLE)} == {"Delete"}


def test_the_bucket_tells_eventbridge(production: Synthesis) -> None:
    bucket = production.data["Resources"][BUCKET]["Properties"]
    assert bucket["NotificationConfiguration"] == {"EventBridgeConfiguration": {"EventBridgeEnabled": True}}


def test_a_browser_may_only_put_what_the_api_has_signed(production: Synthesis) -> None:
    [rule] = production.data["Resources"][BUCKET]["Properties"]["CorsConfiguration"]["CorsRules"]
    assert rule == {"AllowedMethods": ["PUT"], "AllowedOrigins": ["*"], "AllowedHeaders": ["content-type"]}


def test_answers_pictures_sources_and_checkpoints_expire_and_models_do_not(production: Synthesis) -> None:
    rules = production.data["Resources"][BUCKET]["Properties"]["LifecycleConfiguration"]["Rules"]
    expiring = {rule["Prefix"]: rule["ExpirationInDays"] for rule in rules if "ExpirationInDays" in rule}
    assert expiring == {
        "inference/": KEEP_GENERATIONS_DAYS,
        "generations/": KEEP_GENERATIONS_DAYS,
        "sources/": KEEP_SOURCES_DAYS,
        "checkpoints/": 30,
    }


def test_replaced_versions_go_after_a_month_and_then_the_marker_that_is_left(production: Synthesis) -> None:
    rules = production.data["Resources"][BUCKET]["Properties"]["LifecycleConfiguration"]["Rules"]
    [rule] = [rule for rule in rules if "NoncurrentVersionExpiration" in rule]
    assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    assert rule["ExpiredObjectDeleteMarker"] is True
    assert "Prefix" not in rule


def test_who_used_the_data_is_logged_for_a_while_where_nobody_else_writes(production: Synthesis) -> None:
    bucket = production.data["Resources"][BUCKET]["Properties"]
    assert bucket["LoggingConfiguration"] == {"DestinationBucketName": {"Ref": ACCESS_LOGS}, "LogFilePrefix": "data/"}
    rules = production.data["Resources"][ACCESS_LOGS]["Properties"]["LifecycleConfiguration"]["Rules"]
    assert [rule["ExpirationInDays"] for rule in rules if "ExpirationInDays" in rule] == [90]
    policies = production.properties("AWS::S3::BucketPolicy").values()
    [policy] = [one["PolicyDocument"]["Statement"] for one in policies if one["Bucket"] == {"Ref": ACCESS_LOGS}]
    [delivery] = [one for one in policy if one["Effect"] == "Allow"]
    assert delivery["Principal"] == {"Service": "logging.s3.amazonaws.com"}
    assert delivery["Condition"]["ArnLike"] == {"aws:SourceArn": {"Fn::GetAtt": [BUCKET, "Arn"]}}


def test_the_table_forgets_expired_rows_and_can_be_restored(production: Synthesis) -> None:
    table = production.data["Resources"][TABLE]["Properties"]
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert [key["AttributeName"] for key in table["KeySchema"]] == ["pk", "sk"]


def test_the_outputs_that_clients_read_are_there(production: Synthesis) -> None:
    assert {"DataBucketName", "TableName"} <= set(production.data["Outputs"])
    assert {"ApiUrl", "StateMachineArn", "SubjectTopicArn"} <= set(production.service["Outputs"])
