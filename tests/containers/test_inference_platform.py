"""Where the serving program finds what SageMaker gives it."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_container.platform import Platform


def test_the_platform_is_sagemakers_unless_told_otherwise() -> None:
    default = Platform.from_environment({})
    assert (default.host, default.port, default.model_directory) == ("0.0.0.0", 8080, Path("/opt/ml/model"))  # noqa: S104
    told = {"SAGEMAKER_BASE_DIR": "/x", "SAGEMAKER_BIND_TO_PORT": "9000", "DATA_BUCKET": "d"}
    other = Platform.from_environment(told)
    assert (other.host, other.port, other.data_bucket) == ("0.0.0.0", 9000, "d")  # noqa: S104
    assert other.model_directory == Path("/x/model")
    assert Platform.from_environment({**told, "BIND_TO_ADDRESS": "127.0.0.1"}).host == "127.0.0.1"


@pytest.mark.parametrize("port", ["http", "-1", "70000", ""])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(ValueError, match="SAGEMAKER_BIND_TO_PORT"):
        Platform.from_environment({"SAGEMAKER_BIND_TO_PORT": port})
