"""Every private name of MiniStack that the local cloud builds on, as it must be. A new pin starts here."""

from __future__ import annotations

import importlib
import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dreamdrop.local import settings
from dreamdrop.local.errors import LocalCloudError

pytest.importorskip("ministack")

PROJECT = Path(__file__).parents[2]

FUNCTIONS = {
    "ministack.app:pin_request_origin": ["source_ip", "secure_transport"],
    "ministack.core.concurrency:run_reentrant": ["fn", "args", "thread_name"],
    "ministack.core.iam_actions:extract_resource_arn": [
        "service",
        "method",
        "path",
        "headers",
        "body",
        "query_params",
        "region",
        "account_id",
    ],
    "ministack.core.iam_evaluator:_gather_role_policies": ["role_name", "account_id"],
    "ministack.core.iam_evaluator:evaluate": ["ctx", "policies", "limits"],
    "ministack.core.iam_actions:extract_iam_action": [
        "service",
        "method",
        "path",
        "headers",
        "body",
        "query_params",
    ],
    "ministack.core.iam_evaluator:evaluate_resource_policy": ["doc", "ctx", "service", "named_only", "direct_only"],
    "ministack.core.iam_evaluator:enforce": [
        "access_key_id",
        "iam_action",
        "service",
        "region",
        "resource_arn",
        "service_context",
    ],
    "ministack.core.lambda_runtime:execution_credentials": ["config"],
    "ministack.core.responses:get_account_id": [],
    "ministack.core.responses:get_region": [],
    "ministack.core.responses:json_response": ["data", "status", "content_type"],
    "ministack.core.responses:now_iso": [],
    "ministack.core.responses:set_request_account_id": ["access_key_id"],
    "ministack.core.responses:set_request_region": ["region"],
    "ministack.core.router:detect_service": ["method", "path", "headers", "query_params"],
    "ministack.services.eventbridge:_put_events": ["data", "allow_aws_source"],
    "ministack.services.lambda_svc:_execute_function_warm": ["func", "event", "request_id"],
    "ministack.services.lambda_svc:_probe_peak_memory_mb": ["func"],
    "ministack.services.stepfunctions:_add_event": ["execution", "event_type", "details"],
    "ministack.services.stepfunctions:_apply_jsonata_template": [
        "value",
        "raw_input",
        "ctx",
        "result",
        "error_output",
    ],
    "ministack.services.stepfunctions:_emit_execution_status_event": ["execution"],
    "ministack.services.stepfunctions:_evaluate_jsonata_choice_rule": ["rule", "raw_input", "ctx"],
    "ministack.services.stepfunctions:_evaluate_rule": ["rule", "data", "ctx"],
    "ministack.services.stepfunctions:_fail_execution": ["execution", "error", "cause"],
    "ministack.services.stepfunctions:_find_matching_retrier": ["retriers", "error", "retry_counts"],
    "ministack.services.stepfunctions:_invoke_resource": ["resource", "input_data"],
    "ministack.services.stepfunctions:_invoke_resource_with_timeout": ["resource", "input_data", "timeout"],
    "ministack.services.stepfunctions:_parse_jsonpath_tokens": ["path"],
    "ministack.services.stepfunctions:_resolve_path": ["path", "data"],
    "ministack.services.stepfunctions:_run_execution": ["exec_arn"],
    "ministack.services.stepfunctions:_start_execution": ["data"],
    "ministack.services.stepfunctions:_stop_execution": ["data"],
    "ministack.services.sts:register_session": ["access_key", "session"],
}

VALUES: dict[str, type] = {
    "ministack.app:AUTH": bool,
    "ministack.app:SERVICE_HANDLERS": dict,
    "ministack.core.router:SERVICE_PATTERNS": dict,
    "ministack.services.ssm:_PUBLIC_AMI_PARAMETERS": dict,
    "ministack.services.stepfunctions:_AWS_SDK_ERROR_PREFIX": dict,
    "ministack.services.stepfunctions:_AWS_SDK_SERVICE_MAP": dict,
    "ministack.services.stepfunctions:_SERVICE_DISPATCH": dict,
}

SCOPED = ["ministack.services.stepfunctions:_executions", "ministack.services.stepfunctions:_state_machines"]


def look_up(seam: str) -> Any:
    module, _, name = seam.partition(":")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("seam", FUNCTIONS)
def test_a_function_takes_what_we_pass(seam: str) -> None:
    assert list(inspect.signature(look_up(seam)).parameters) == FUNCTIONS[seam]


@pytest.mark.parametrize("seam", VALUES)
def test_a_table_is_of_its_type(seam: str) -> None:
    assert isinstance(look_up(seam), VALUES[seam])


@pytest.mark.parametrize("seam", SCOPED)
def test_a_store_is_scoped_by_account_and_region(seam: str) -> None:
    from ministack.core.responses import AccountRegionScopedDict

    assert isinstance(look_up(seam), AccountRegionScopedDict)


def test_the_error_of_a_state_has_a_name_and_a_cause() -> None:
    from ministack.services import stepfunctions

    error = stepfunctions._ExecutionError("Name", "why")
    assert (error.error, error.cause) == ("Name", "why")


def test_patched_functions_are_found_by_name_when_they_are_called() -> None:
    """The plug-ins assign module attributes; a copy taken at import would keep the stock function."""
    from ministack.services import stepfunctions

    assert "_run_execution" in inspect.getsource(stepfunctions._start_execution)
    assert '"StopExecution": _stop_execution' in inspect.getsource(stepfunctions.handle_request)
    assert '"StartExecution": _start_execution' in inspect.getsource(stepfunctions.handle_request)
    assert "= _invoke_resource(" in inspect.getsource(stepfunctions._execute_task)
    assert "pin_request_origin" in look_up("ministack.app:app").__globals__


def test_every_private_name_that_the_plugins_use_is_listed_here() -> None:
    listed = {seam.partition(":")[2] for seam in [*FUNCTIONS, *VALUES, *SCOPED]} | {"_ExecutionError"}
    modules = "app|router|sfn|lambda_svc|eventbridge|sts|ssm"
    for path in (PROJECT / "dreamdrop/local/plugins").glob("*.py"):
        used = re.findall(rf"\b(?:{modules})\.(_?[A-Za-z_]+)", path.read_text())
        assert not {name for name in used if name.startswith("_")} - listed, path.name


def test_the_pinned_version_is_the_one_of_the_project_and_the_one_installed() -> None:
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert f"ministack=={settings.MINISTACK}" in extras["local"]
    settings.check_ministack_version()


def test_another_version_is_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "MINISTACK", "0.0.1")
    with pytest.raises(LocalCloudError, match=r"pip install ministack==0\.0\.1"):
        settings.check_ministack_version()
