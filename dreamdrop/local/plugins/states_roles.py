"""Step Functions: what a task does, it does under the role of its state machine.

Wart: MiniStack calls the services of a task itself and never looks at the role. Checked are the integrations that our
machine has, lambda:invoke and the optimised ones of SageMaker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ministack.services import stepfunctions as sfn

from dreamdrop.local.plugins.authorization import AccessDenied, Requirement, authorize_role
from dreamdrop.local.plugins.states_stopping import current_execution

Authorize = Callable[[Requirement], None]

_INVOKE = "arn:aws:states:::lambda:invoke"


def install(region: str) -> None:
    invoke_stock = sfn._invoke_resource

    def invoke(resource: str, input_data: Any) -> Any:
        if resource.startswith(_INVOKE):
            required = Requirement("lambda:InvokeFunction", _function_arn(input_data["FunctionName"], region))
            try:
                authorization(region)(required)
            except AccessDenied as denied:
                raise sfn._ExecutionError("Lambda.AWSLambdaException", denied.message) from denied
        return invoke_stock(resource, input_data)

    sfn._invoke_resource = invoke


def authorization(region: str) -> Authorize:
    """Asks the role of the running execution, from whatever thread it is called later. Raises AccessDenied."""
    execution = current_execution()
    machine = sfn._state_machines.get(execution["stateMachineArn"]) if execution else None
    if not execution or not machine:
        return lambda required: None

    def authorize(required: Requirement) -> None:
        authorize_role(machine["roleArn"], execution["name"], required, region)

    return authorize


def _function_arn(name_or_arn: str, region: str) -> str:
    if name_or_arn.startswith("arn:"):
        return name_or_arn
    execution = current_execution()
    account = execution["executionArn"].split(":")[4] if execution else ""
    return f"arn:aws:lambda:{region}:{account}:function:{name_or_arn}"
