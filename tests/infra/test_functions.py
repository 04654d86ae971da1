"""Every function gets what its handler reads, no more."""

from __future__ import annotations

from typing import Any

from contracts import environment
from contracts.environment import StoreEnvironment
from infra.settings import PRODUCTION
from tests.infra.synthesis import Synthesis

ENVIRONMENTS: dict[str, type[StoreEnvironment]] = {
    "lambdas.intake.take_dataset.handler": environment.IntakeEnvironment,
    "lambdas.pipeline.check_dataset.handler": environment.CheckEnvironment,
    "lambdas.pipeline.plan_training.handler": environment.PlanEnvironment,
    "lambdas.pipeline.judge_model.handler": environment.TrainingEnvironment,
    "lambdas.pipeline.publish_model.handler": environment.StoreEnvironment,
    "lambdas.hosting.host_model.handler": environment.HostEnvironment,
    "lambdas.hosting.keep_endpoint.handler": environment.HostEnvironment,
    "lambdas.hosting.remove_endpoints.handler": environment.RemovalEnvironment,
    "lambdas.pipeline.tell_ready.handler": environment.TellEnvironment,
    "lambdas.pipeline.recover.handler": environment.PlanEnvironment,
    "lambdas.pipeline.tell_failed.handler": environment.TellEnvironment,
    "lambdas.pipeline.close_execution.handler": environment.CloseEnvironment,
    "lambdas.pipeline.settle_training.handler": environment.SettleEnvironment,
    "lambdas.deletion.delete_subject.handler": environment.DeletionEnvironment,
    "lambdas.api.app.handler": environment.ApiEnvironment,
    "lambdas.api.record_generation.handler": environment.StoreEnvironment,
}


def variables(function: dict[str, Any]) -> dict[str, str]:
    """References to other resources become a word."""
    declared: dict[str, Any] = function["Environment"]["Variables"]
    return {name: value if isinstance(value, str) else "reference" for name, value in declared.items()}


def test_there_is_a_function_for_every_handler_and_no_other(local: Synthesis) -> None:
    assert set(local.functions()) == set(ENVIRONMENTS)


def test_the_variables_of_each_function_are_exactly_those_of_its_model(local: Synthesis, guarded: Synthesis) -> None:
    """With nothing switched on, and with everything that has a switch."""
    for synthesis, everything in ((local, False), (guarded, True)):
        for handler, function in synthesis.functions().items():
            model, declared = ENVIRONMENTS[handler], variables(function)
            model.from_variables(declared)
            ours = {name.lower() for name in declared if not name.startswith(("POWERTOOLS_", "AWS_"))}
            expected = {name for name, field in model.model_fields.items() if everything or field.is_required()}
            assert ours == expected, handler


def test_ladder_limit_and_budget_survive_the_way_through_the_variables(production: Synthesis) -> None:
    declared = variables(production.functions()["lambdas.pipeline.plan_training.handler"])
    planned = environment.PlanEnvironment.from_variables(declared)
    assert planned.training_instance_types == ["ml.g5.xlarge", "ml.g5.2xlarge", "ml.g4dn.xlarge", "ml.g6.xlarge"]
    assert planned.training_max_seconds == PRODUCTION.training_max_seconds
    assert planned.training_budget_dollars == PRODUCTION.training_budget_dollars
    assert planned.daily_budget_dollars == PRODUCTION.daily_budget_dollars
    assert planned.training_is_billed is True


def test_no_training_is_billed_on_ones_own_machine(local: Synthesis) -> None:
    declared = variables(local.functions()["lambdas.pipeline.settle_training.handler"])
    assert environment.SettleEnvironment.from_variables(declared).training_is_billed is False


def test_blocked_words_and_watermark_survive_the_way_through_the_variables(guarded: Synthesis) -> None:
    functions = guarded.functions()
    api = environment.ApiEnvironment.from_variables(variables(functions["lambdas.api.app.handler"]))
    host = environment.HostEnvironment.from_variables(variables(functions["lambdas.hosting.host_model.handler"]))
    assert api.blocked_words == host.blocked_words == ["red scarf", "hat"]
    assert host.watermark == "made, by us"


def test_every_function_is_made_the_one_way(production: Synthesis) -> None:
    for handler, function in production.functions().items():
        assert function["Runtime"] == "python3.14", handler
        assert function["Architectures"] == ["arm64"], handler
        assert function["Layers"] == [{"Ref": "FunctionsPowertoolsLayer26A63671"}], handler


def test_production_keeps_its_logs_for_half_a_year(production: Synthesis) -> None:
    groups = production.properties("AWS::Logs::LogGroup")
    assert len(groups) == len(ENVIRONMENTS) + 2  # of the state machine and of the API
    assert {group["RetentionInDays"] for group in groups.values()} == {180}
