"""The decisions inside the local cloud that need no cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ministack")

from dreamdrop.local.assembly import zip_folder
from dreamdrop.local.deploy import path_form
from dreamdrop.local.plugins.authorization import sagemaker_resource_arn
from dreamdrop.local.plugins.states_strict import path_exists

URL = "http://127.0.0.1:4700"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$.a", True),
        ("$.a.nothing", True),
        ("$.a.missing", False),
        ("$.list[1]", True),
        ("$.list[2]", False),
        ("$.missing[*].x", True),
    ],
)
def test_a_path_exists_when_it_selects_something_or_is_a_wildcard(path: str, found: bool) -> None:
    assert path_exists(path, {"a": {"nothing": None}, "list": [1, 2]}) is found


@pytest.mark.parametrize(
    ("operation", "body", "resource"),
    [
        ("CreateEndpoint", {"EndpointConfigName": "c", "EndpointName": "E"}, "endpoint/e"),
        ("CreateEndpointConfig", {"EndpointConfigName": "c"}, "endpoint-config/c"),
        ("CreateTrainingJob", {"TrainingJobName": "j"}, "training-job/j"),
        ("CreateModel", {"ModelName": "m", "ExecutionRoleArn": "r"}, "model/m"),
    ],
)
def test_an_action_is_on_the_resource_that_it_names(operation: str, body: dict[str, Any], resource: str) -> None:
    arn = f"arn:aws:sagemaker:us-east-1:000000000000:{resource}"
    assert sagemaker_resource_arn(operation, body, "us-east-1", "000000000000") == arn


def test_an_action_on_no_single_resource_is_on_all() -> None:
    assert sagemaker_resource_arn("ListTrainingJobs", {"NameContains": "x"}, "us-east-1", "000000000000") == "*"


@pytest.mark.parametrize(
    ("value", "local"),
    [
        ("https://abc.execute-api.us-east-1.amazonaws.com", f"{URL}/_aws/execute-api/abc/$default"),
        ("https://abc.execute-api.us-east-1.amazonaws.com/prod/", f"{URL}/_aws/execute-api/abc/prod"),
        ("http://abc.execute-api.localhost:4566", f"{URL}/_aws/execute-api/abc/$default"),
        ("arn:aws:sns:us-east-1:000000000000:topic", "arn:aws:sns:us-east-1:000000000000:topic"),
    ],
)
def test_the_address_of_an_api_needs_no_dns(value: str, local: str) -> None:
    assert path_form(value, URL) == local


def test_the_same_files_give_the_same_archive(tmp_path: Path) -> None:
    archives = []
    for name in ("one", "two"):
        (tmp_path / name / "package").mkdir(parents=True)
        for file in ("b.py", "a.py") if name == "one" else ("a.py", "b.py"):
            (tmp_path / name / "package" / file).write_text(file)
        archives.append(zip_folder(tmp_path / name))
    assert archives[0] == archives[1]
