"""What can be said of the serving image without building it."""

from __future__ import annotations

from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

from inference_container.platform import Platform

FOLDER = Path(__file__).parents[2] / "inference_container"


def instructions() -> dict[str, list[str]]:
    with (FOLDER / "Dockerfile").open("rb") as file:
        parsed = DockerfileParser(fileobj=file).structure
    grouped: dict[str, list[str]] = {}
    for line in parsed:
        grouped.setdefault(line["instruction"], []).append(line["value"])
    return grouped


def test_the_dockerfile_follows_the_hosting_contract() -> None:
    found = instructions()
    assert found["ENTRYPOINT"] == ['["python", "-m", "inference_container"]']
    assert found["CMD"] == ['["serve"]']
    assert found["EXPOSE"] == ["8080"]
    assert found["LABEL"] == ["com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true"]
    assert found["ARG"] == ["BASE_IMAGE=python:3.12-slim-bookworm"]
    assert not {"USER", "HEALTHCHECK", "SHELL", "ONBUILD", "VOLUME"} & set(found)
    assert "/opt/ml" not in (FOLDER / "Dockerfile").read_text()


def test_every_requirement_is_pinned() -> None:
    lines = (FOLDER / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert all("==" in pin for pin in pins)


def test_the_platform_is_sagemakers_unless_told_otherwise() -> None:
    default = Platform.from_environment({})
    assert (default.host, default.port, default.model_directory) == ("0.0.0.0", 8080, Path("/opt/ml/model"))  # noqa: S104
    local = Platform.from_environment(
        {"SAGEMAKER_BASE_DIR": "/x", "SAGEMAKER_BIND_TO_PORT": "9000", "DATA_BUCKET": "d"}
    )
    assert (local.host, local.port, local.data_bucket) == ("127.0.0.1", 9000, "d")
    assert local.model_directory == Path("/x/model")


@pytest.mark.parametrize("port", ["http", "-1", "70000", ""])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(ValueError, match="SAGEMAKER_BIND_TO_PORT"):
        Platform.from_environment({"SAGEMAKER_BIND_TO_PORT": port})
