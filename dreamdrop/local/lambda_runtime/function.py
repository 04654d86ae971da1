"""What a Lambda function is to its execution environments."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Of the host's environment only what a process needs to run reaches a function.
_FROM_HOST = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT")


@dataclass(frozen=True)
class FunctionSpec:
    """`variables`: the function's own environment, `credentials`: AWS_* of its execution role; `timeout` in seconds."""

    arn: str
    handler: str
    code_zip: bytes
    timeout: float
    memory_mb: int = 128
    version: str = "$LATEST"
    variables: Mapping[str, str] = field(default_factory=dict)
    credentials: Mapping[str, str] = field(default_factory=dict)
    endpoint_url: str | None = None

    @property
    def name(self) -> str:
        return self.arn.split(":")[6]

    @property
    def region(self) -> str:
        return self.arn.split(":")[3]


@dataclass(frozen=True)
class Outcome:
    """`body`: the response, or the error document of AWS when `failed`; `log`: what the function wrote meanwhile."""

    failed: bool
    body: bytes
    log: str = ""

    def value(self) -> Any:
        return json.loads(self.body or b"null")


def failure(error_type: str, message: str, log: str = "") -> Outcome:
    return Outcome(True, json.dumps({"errorType": error_type, "errorMessage": message}).encode(), log)


def process_environment(spec: FunctionSpec, root: Path, runtime_api: str, log_stream: str) -> dict[str, str]:
    """The environment of a function's process: the function's variables, and what Lambda sets over them."""
    endpoint = {"AWS_ENDPOINT_URL": spec.endpoint_url} if spec.endpoint_url else {}
    return {
        **{name: os.environ[name] for name in _FROM_HOST if name in os.environ},
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "HOME": str(root),  # the developer's ~/.aws is not the function's
        "AWS_EC2_METADATA_DISABLED": "true",
        "POWERTOOLS_TRACE_DISABLED": "true",  # no X-Ray daemon listens here
        "OMP_NUM_THREADS": "1",
        **spec.variables,
        **spec.credentials,
        **endpoint,
        "AWS_REGION": spec.region,
        "AWS_DEFAULT_REGION": spec.region,
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.12",
        "AWS_LAMBDA_RUNTIME_API": runtime_api,
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_FUNCTION_NAME": spec.name,
        "AWS_LAMBDA_FUNCTION_VERSION": spec.version,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(spec.memory_mb),
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{spec.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": log_stream,
        "LAMBDA_TASK_ROOT": str(root / "code"),
        "_HANDLER": spec.handler,
        "PYTHONPATH": str(Path(__file__).parent / "client"),  # `-m` puts the code's folder in front of it
        "PYTHONUNBUFFERED": "1",
    }
