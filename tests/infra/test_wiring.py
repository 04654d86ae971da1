"""Events, queues, routes and alarms."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks import costs
from contracts import metrics
from contracts.dead_letters import DeadLetterQueue
from contracts.pipeline import DELETION_LEASE_SECONDS
from infra.settings import LOCAL, PRODUCTION
from lambdas.domain.scaling import Scaling
from tests.infra.synthesis import Synthesis

SIGNED = {
    *("POST /v1/generations", "GET /v1/generations/{id}", "DELETE /v1/generations/{id}", "POST /v1/sources"),
    *("GET /v1/subjects", "GET /v1/subjects/{subject}", "DELETE /v1/subjects/{subject}"),
}
OPEN = {"GET /", "GET /v1/openapi.json"}


def only(found: dict[str, Any]) -> Any:
    (value,) = found.values()
    return value


def queue(synthesis: Synthesis, start: str) -> Any:
    return only({n: q for n, q in synthesis.properties("AWS::SQS::Queue").items() if n.startswith(start)})


def test_a_dropped_file_waits_out_the_quiet_period(local: Synthesis, production: Synthesis) -> None:
    rules = production.properties("AWS::Events::Rule")
    dropped = only({n: r for n, r in rules.items() if n.startswith("IntakeFileDropped")})
    assert dropped["EventPattern"]["detail-type"] == ["Object Created"]
    assert dropped["EventPattern"]["detail"]["object"] == {"key": [{"prefix": "datasets/"}]}
    assert dropped["Targets"][0]["Arn"]["Fn::GetAtt"][0].startswith("IntakeQueue")
    assert queue(production, "IntakeQueue")["DelaySeconds"] == PRODUCTION.quiet_period_seconds
    assert queue(local, "IntakeQueue")["DelaySeconds"] == LOCAL.quiet_period_seconds


def test_every_work_queue_names_its_failures_and_sets_them_aside(production: Synthesis) -> None:
    functions = production.properties("AWS::Lambda::Function")
    mappings = production.properties("AWS::Lambda::EventSourceMapping")
    assert len(mappings) == 4
    for mapping in mappings.values():
        assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        source = production.properties("AWS::SQS::Queue")[mapping["EventSourceArn"]["Fn::GetAtt"][0]]
        assert source["RedrivePolicy"]["maxReceiveCount"] == 5
        timeout = functions[mapping["FunctionName"]["Ref"]]["Timeout"]
        assert source["VisibilityTimeout"] >= 6 * timeout


def test_what_cannot_be_delivered_to_a_queue_is_set_aside_where_that_queue_sets_aside(production: Synthesis) -> None:
    """EventBridge drops what it may not deliver at once, and SNS some time later."""
    queues = production.properties("AWS::SQS::Queue")
    targets = [one for rule in production.properties("AWS::Events::Rule").values() for one in rule["Targets"]]
    ways = [(one["Arn"], one["DeadLetterConfig"]["Arn"]) for one in targets]
    subscriptions = production.properties("AWS::SNS::Subscription").values()
    ways += [(one["Endpoint"], one["RedrivePolicy"]["deadLetterTargetArn"]) for one in subscriptions]
    into_queues = [(queues[to["Fn::GetAtt"][0]], aside) for to, aside in ways if to["Fn::GetAtt"][0] in queues]
    assert len(into_queues) == 4
    for queue, aside in into_queues:
        assert aside == queue["RedrivePolicy"]["deadLetterTargetArn"]


def test_each_answer_has_the_whole_time_of_its_function(production: Synthesis) -> None:
    mappings = production.properties("AWS::Lambda::EventSourceMapping")
    mapping = only({name: one for name, one in mappings.items() if name.startswith("HostingRecordGeneration")})
    assert mapping["BatchSize"] == 1
    assert production.functions()["lambdas.api.record_generation.handler"]["Timeout"] == 180


def test_each_deletion_has_the_whole_time_of_its_function(production: Synthesis) -> None:
    mappings = production.properties("AWS::Lambda::EventSourceMapping")
    mapping = only({name: one for name, one in mappings.items() if name.startswith("DeletionDeleteSubject")})
    function = production.functions()["lambdas.deletion.delete_subject.handler"]
    assert mapping["BatchSize"] == 1
    assert function["Timeout"] < DELETION_LEASE_SECONDS
    assert mapping["EventSourceArn"]["Fn::GetAtt"][0].startswith("DeletionQueue")


def test_both_outcomes_of_a_generation_reach_the_same_queue_raw(production: Synthesis) -> None:
    subscriptions = production.properties("AWS::SNS::Subscription").values()
    assert {one["TopicArn"]["Ref"] for one in subscriptions} == {"HostingDrawnA1CA42A5", "HostingNotDrawnE1BEC3AC"}
    assert {one["Endpoint"]["Fn::GetAtt"][0] for one in subscriptions} == {"HostingAnswers4D0F5D36"}
    assert all(one["RawMessageDelivery"] for one in subscriptions)


def test_a_broken_execution_of_this_machine_is_closed(production: Synthesis) -> None:
    rules = production.properties("AWS::Events::Rule")
    broken = only({n: r for n, r in rules.items() if n.startswith("TrainingExecutionBroken")})
    (machine,) = production.resources("AWS::StepFunctions::StateMachine")
    assert broken["EventPattern"]["detail"] == {
        "status": ["FAILED", "TIMED_OUT", "ABORTED"],
        "stateMachineArn": [{"Ref": machine}],
    }
    assert broken["Targets"][0]["DeadLetterConfig"]["Arn"]["Fn::GetAtt"][0].startswith("TrainingDeadLetters")


def test_every_end_of_a_training_job_of_ours_is_settled(production: Synthesis) -> None:
    rules = production.properties("AWS::Events::Rule")
    ended = only({n: r for n, r in rules.items() if n.startswith("TrainingTrainingEnded")})
    assert ended["EventPattern"]["source"] == ["aws.sagemaker"]
    assert ended["EventPattern"]["detail"] == {
        "TrainingJobName": [{"prefix": "dreamdrop-"}],
        "TrainingJobStatus": ["Completed", "Failed", "Stopped"],
    }
    (target,) = ended["Targets"]
    assert target["Arn"]["Fn::GetAtt"][0].startswith("TrainingSettleTraining")
    assert target["DeadLetterConfig"]["Arn"]["Fn::GetAtt"][0].startswith("TrainingUnsettledDeadLetters")


def test_events_that_a_function_refuses_are_set_aside(production: Synthesis) -> None:
    refused = production.properties("AWS::Lambda::EventInvokeConfig")
    queues = {"TrainingCloseExecution": "TrainingDeadLetters", "TrainingSettleTraining": "TrainingUnsettledDeadLetters"}
    assert {name[:22] for name in refused} == set(queues)
    for name, one in refused.items():
        queue = one["DestinationConfig"]["OnFailure"]["Destination"]["Fn::GetAtt"][0]
        assert queue.startswith(queues[name[:22]])


def test_news_of_our_endpoints_reach_who_keeps_them(production: Synthesis) -> None:
    rules = production.properties("AWS::Events::Rule")
    changed = only({n: r for n, r in rules.items() if n.startswith("KeepingEndpointChanged")})
    assert changed["EventPattern"]["source"] == ["aws.sagemaker"]
    assert changed["EventPattern"]["detail-type"] == ["SageMaker Endpoint State Change"]
    assert changed["EventPattern"]["detail"] == {
        "EndpointName": [{"prefix": "dreamdrop-"}],
        "EndpointStatus": ["IN_SERVICE", "FAILED"],
    }
    [target] = changed["Targets"]
    assert target["Arn"]["Fn::GetAtt"][0].startswith("HostingNotices")
    assert "InputTransformer" not in target  # so what was set aside is what would have been delivered


def test_nothing_begins_after_everything_was_stopped(production: Synthesis) -> None:
    """CloudFormation deletes what depends on a resource before the resource."""
    beginnings = [
        resource
        for kind in ("AWS::Lambda::EventSourceMapping", "AWS::Events::Rule")
        for name, resource in production.resources(kind).items()
        if name.startswith(("Intake", "Keeping"))
    ]
    assert len(beginnings) == 4
    (removal,) = production.resources("Custom::RuntimeResources")
    assert all(removal in beginning["DependsOn"] for beginning in beginnings)


def test_executions_are_stopped_while_there_is_somebody_to_hear_of_it(production: Synthesis) -> None:
    """The state machine could not be deleted before they have ended."""
    (removal,) = production.resources("Custom::RuntimeResources").values()
    needed = [
        name
        for kind in (
            *("AWS::StepFunctions::StateMachine", "AWS::Events::Rule", "AWS::Lambda::Permission"),
            *("AWS::Lambda::Function", "AWS::IAM::Role", "AWS::IAM::Policy"),
        )
        for name in production.resources(kind)
        if name.startswith(("TrainingMachine", "TrainingExecutionBroken", "TrainingCloseExecution"))
    ]
    assert len(needed) == 8
    assert set(needed) <= set(removal["DependsOn"])


def test_callers_sign_every_route_but_the_page_and_the_contract(local: Synthesis, production: Synthesis) -> None:
    for synthesis in (local, production):
        routes = synthesis.properties("AWS::ApiGatewayV2::Route").values()
        authorization = {route["RouteKey"]: route["AuthorizationType"] for route in routes}
        assert authorization == {**dict.fromkeys(SIGNED, "AWS_IAM"), **dict.fromkeys(OPEN, "NONE")}


def test_callers_show_a_token_of_the_issuer_where_one_is_set(guarded: Synthesis) -> None:
    (name,) = guarded.resources("AWS::ApiGatewayV2::Authorizer")
    authorizer = guarded.properties("AWS::ApiGatewayV2::Authorizer")[name]
    assert authorizer["AuthorizerType"] == "JWT"
    assert authorizer["IdentitySource"] == ["$request.header.Authorization"]
    assert authorizer["JwtConfiguration"] == {
        "Issuer": "https://login.example/realms/art", "Audience": ["dreamdrop", "dreamdrop-beta"],
    }  # fmt: skip
    routes = {route["RouteKey"]: route for route in guarded.properties("AWS::ApiGatewayV2::Route").values()}
    assert {key: route["AuthorizationType"] for key, route in routes.items()} == {
        **dict.fromkeys(SIGNED, "JWT"), **dict.fromkeys(OPEN, "NONE"),
    }  # fmt: skip
    assert {text for key in SIGNED for text in [routes[key]["AuthorizerId"]["Ref"]]} == {name}


def test_the_api_is_throttled_and_logs_its_callers(production: Synthesis) -> None:
    stage = only(production.properties("AWS::ApiGatewayV2::Stage"))
    assert stage["DefaultRouteSettings"] == {"ThrottlingRateLimit": 50, "ThrottlingBurstLimit": 100}
    assert set(stage["RouteSettings"]) == {route for route in SIGNED if not route.startswith("GET ")}
    for limits in stage["RouteSettings"].values():
        assert limits == {"ThrottlingRateLimit": 10, "ThrottlingBurstLimit": 20}
    assert {"$context.identity.userArn", "$context.authorizer.claims.sub"} <= set(
        json.loads(stage["AccessLogSettings"]["Format"]).values()
    )


def test_the_stage_waits_for_the_routes_that_it_names(production: Synthesis) -> None:
    (stage,) = production.resources("AWS::ApiGatewayV2::Stage").values()
    routes = production.resources("AWS::ApiGatewayV2::Route")
    made_before = {routes[name]["Properties"]["RouteKey"] for name in stage["DependsOn"] if name in routes}
    assert set(stage["Properties"]["RouteSettings"]) <= made_before


def test_every_dead_letter_queue_has_an_alarm_that_is_heard(production: Synthesis) -> None:
    alarms = production.properties("AWS::CloudWatch::Alarm").values()
    watched = {
        dimension["Value"]["Fn::GetAtt"][0]
        for alarm in alarms
        for dimension in alarm["Dimensions"]
        if dimension["Name"] == "QueueName"
    }
    dead_letters = {name for name in production.resources("AWS::SQS::Queue") if "DeadLetters" in name}
    assert len(dead_letters) == 6
    assert watched == dead_letters
    assert all(alarm["AlarmActions"] for alarm in alarms)
    assert {alarm["MetricName"] for alarm in alarms} >= {"ExecutionsFailed", "ExecutionsTimedOut"}


def test_every_dead_letter_queue_can_be_replayed(production: Synthesis) -> None:
    """To where its messages come from: the queue that it belongs to, or the function that EventBridge calls."""
    parts = production.service["Outputs"]["DeadLetters"]["Value"]["Fn::Join"][1]
    told = json.loads("".join(part if isinstance(part, str) else part["Ref"] for part in parts))
    queues = production.properties("AWS::SQS::Queue")
    found = {DeadLetterQueue.model_validate(one) for one in told.values()}
    assert {one.url for one in found} == {name for name in queues if "DeadLetters" in name}
    for one in found:
        if one.source_url is None:
            assert str(one.function_name).startswith(("TrainingCloseExecution", "TrainingSettleTraining"))
        else:
            assert queues[one.source_url]["RedrivePolicy"]["deadLetterTargetArn"] == {"Fn::GetAtt": [one.url, "Arn"]}


def test_every_alarm_has_its_section_in_the_runbook(production: Synthesis) -> None:
    runbook = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    sections = set(re.findall(r"^### (\w+)$", runbook, re.MULTILINE))
    described = {
        alarm["AlarmDescription"]["Fn::Join"][1][-1]
        if isinstance(alarm["AlarmDescription"], dict)
        else (alarm["AlarmDescription"])
        for alarm in production.properties("AWS::CloudWatch::Alarm").values()
    }
    described |= {alarm["AlarmDescription"] for alarm in Scaling("e", 1, "arn").watching_alarms()}
    named = {re.search(r"docs/operations\.md, (\w+)\.$", text)[1] for text in described}  # type: ignore[index]
    assert named == sections


def test_the_page_about_costs_counts_what_is_deployed(production: Synthesis) -> None:
    assert len(production.properties("AWS::CloudWatch::Alarm")) == costs.ALARMS
    assert len(production.properties("AWS::CloudWatch::Dashboard")) == costs.DASHBOARDS
    assert len(production.properties("AWS::Lambda::EventSourceMapping")) == costs.POLLED_QUEUES
    assert len(production.properties("AWS::KMS::Key")) == costs.CUSTOMER_KEYS


def test_who_makes_endpoints_names_the_topic_of_the_alarms(production: Synthesis) -> None:
    heard = {action["Ref"] for alarm in production.properties("AWS::CloudWatch::Alarm").values()
             for action in alarm["AlarmActions"]}  # fmt: skip
    for name in ("host_model", "keep_endpoint"):
        variables = production.functions()[f"lambdas.hosting.{name}.handler"]["Environment"]["Variables"]
        assert {variables["ALARM_TOPIC_ARN"]["Ref"]} == heard


def test_a_day_that_costs_a_whole_budget_is_told(production: Synthesis) -> None:
    alarms = production.properties("AWS::CloudWatch::Alarm").values()
    [dear] = [alarm for alarm in alarms if alarm["MetricName"] == "TrainingDollars"]
    assert (dear["Statistic"], dear["Period"], dear["Threshold"]) == ("Sum", 86_400, PRODUCTION.daily_budget_dollars)


def test_alarms_and_dashboard_watch_what_the_functions_count(production: Synthesis) -> None:
    """The namespace and the dimension of Powertools' metrics, which no reference ties to the functions."""
    [function] = [
        one for name, one in production.functions().items() if name == "lambdas.api.record_generation.handler"
    ]
    variables = function["Environment"]["Variables"]
    ours = [
        alarm
        for alarm in production.properties("AWS::CloudWatch::Alarm").values()
        if alarm["Namespace"] == variables["POWERTOOLS_METRICS_NAMESPACE"]
    ]
    watched = {"GenerationsFailed", "TrainingDollars", "UnexpectedErrors"}
    assert {alarm["MetricName"] for alarm in ours} == watched
    for alarm in ours:
        assert alarm["Dimensions"] == [{"Name": "service", "Value": variables["POWERTOOLS_SERVICE_NAME"]}]
    [dashboard] = production.properties("AWS::CloudWatch::Dashboard").values()
    body = json.dumps(dashboard["DashboardBody"])
    assert all(getattr(metrics, name) in body for name in dir(metrics) if name.isupper())
