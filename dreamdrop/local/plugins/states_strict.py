"""Step Functions: the gaps that would let a broken state machine pass here and fail in AWS.

Warts mended: a JSONPath that selects nothing gives null; a JSONata Condition may be anything; StartExecution refuses a
running execution of the same name and input, which AWS answers as if it had just been started.
"""

from __future__ import annotations

import contextvars
import json
from typing import Any

from ministack.core.responses import get_account_id, get_region, json_response
from ministack.services import stepfunctions as sfn

_CAUSE_EXCERPT = 300


def install() -> None:
    _missing_path_fails()
    _condition_is_boolean()
    _start_is_idempotent()


def path_exists(path: str, data: Any) -> bool:
    """Whether a reference path selects something; an empty selection of a wildcard, slice or filter is legal."""
    values = [data]
    for kind, value in sfn._parse_jsonpath_tokens(path) or ():
        if kind == "field":
            values = [item[value] for item in values if isinstance(item, dict) and value in item]
        elif kind == "index":
            values = [item[value] for item in values if isinstance(item, list) and value < len(item)]
        else:
            return True
    return bool(values)


def _missing_path_fails() -> None:
    """Choice rules are exempt: IsPresent asks this very question."""
    in_choice = contextvars.ContextVar("in_choice", default=False)
    resolve_stock, rule_stock = sfn._resolve_path, sfn._evaluate_rule

    def resolve(path: Any, data: Any) -> Any:
        value = resolve_stock(path, data)
        suspect = value is None and path and path.startswith("$") and path != "$"
        if suspect and not in_choice.get() and not path_exists(path, data):
            raise sfn._ExecutionError(
                "States.Runtime",
                f"The JSONPath '{path}' could not be found in the input '{json.dumps(data)[:_CAUSE_EXCERPT]}'",
            )
        return value

    def rule(*args: Any, **kwargs: Any) -> Any:
        token = in_choice.set(True)
        try:
            return rule_stock(*args, **kwargs)
        finally:
            in_choice.reset(token)

    sfn._resolve_path, sfn._evaluate_rule = resolve, rule


def _condition_is_boolean() -> None:
    evaluate_stock = sfn._evaluate_jsonata_choice_rule

    def evaluate(rule: dict[str, Any], raw_input: Any, ctx: Any) -> Any:
        condition = rule.get("Condition")
        if not isinstance(condition, str):
            return evaluate_stock(rule, raw_input, ctx)
        value = sfn._apply_jsonata_template(condition, raw_input, ctx)
        if not isinstance(value, bool):
            raise sfn._ExecutionError(
                "States.QueryEvaluationError",
                f"The Condition '{condition}' must give a boolean and gave {json.dumps(value)[:_CAUSE_EXCERPT]}",
            )
        return value

    sfn._evaluate_jsonata_choice_rule = evaluate


def _start_is_idempotent() -> None:
    start_stock = sfn._start_execution

    def start(data: dict[str, Any]) -> Any:
        machine = data.get("stateMachineArn", "").rpartition(":")[2]
        arn = f"arn:aws:states:{get_region()}:{get_account_id()}:execution:{machine}:{data.get('name')}"
        running = sfn._executions.get(arn)
        if running and running["status"] == "RUNNING" and running["input"] == data.get("input", "{}"):
            return json_response({"executionArn": arn, "startDate": running["startDate"]})
        return start_stock(data)

    sfn._start_execution = start
