"""Runs Python functions on awslambdaric.

Wart: MiniStack's own worker reports every exception as `Runtime.HandlerError`, so that Retry and Catch on an error
class never match; it also hands the developer's environment to the function. Layers are ignored: the packages that a
managed layer brings in AWS come from this virtual environment.
"""

from __future__ import annotations

import json
import threading
from typing import Any

from ministack.core.lambda_runtime import execution_credentials
from ministack.services import lambda_svc

from dreamdrop.local.lambda_runtime.environment import ExecutionEnvironment
from dreamdrop.local.lambda_runtime.function import FunctionSpec
from dreamdrop.local.lambda_runtime.pool import IDLE_SECONDS, MAX_ENVIRONMENTS, Pool, PoolStatistics

PoolKey = tuple[str, str]  # function ARN, version


class Functions:
    """One pool for each function version; a changed function retires the pool of its former code or settings."""

    def __init__(self, endpoint_url: str, max_environments: int = MAX_ENVIRONMENTS) -> None:
        self._endpoint_url = endpoint_url
        self._max_environments = max_environments
        self._pools: dict[PoolKey, tuple[str, Pool]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def install(self) -> None:
        execute_stock = lambda_svc._execute_function_warm

        def execute(function: dict[str, Any], event: Any, request_id: str) -> dict[str, Any]:
            config = function.get("config") or function
            if not config.get("Runtime", "").startswith("python"):
                return execute_stock(function, event, request_id)  # type: ignore[no-any-return]
            outcome = self._pool(config, function["code_zip"]).invoke(json.dumps(event).encode(), request_id)
            failed = {"error": True} if outcome.failed else {}
            return {"body": outcome.value(), "log": outcome.log, **failed}

        lambda_svc._execute_function_warm = execute
        # Once for each function it would say that it cannot run the layer, which nobody asks it to.
        lambda_svc.logger.addFilter(lambda record: "is not held by MiniStack" not in record.getMessage())
        lambda_svc._probe_peak_memory_mb = self._peak_memory_mb
        threading.Thread(target=self._close_idle, daemon=True, name="lambda-idle").start()

    def statistics(self) -> dict[str, PoolStatistics]:
        with self._lock:
            return {arn: pool.statistics() for (arn, _), (_, pool) in self._pools.items()}

    def kill(self) -> None:
        self._closing.set()
        with self._lock:
            pools = [pool for _, pool in self._pools.values()]
            self._pools.clear()
        for pool in pools:
            pool.kill()

    def serving(self, trace_root: str) -> ExecutionEnvironment | None:
        """The environment that serves this invocation at the moment."""
        with self._lock:
            pools = [pool for _, pool in self._pools.values()]
        return next((found for pool in pools if (found := pool.serving(trace_root))), None)

    def _pool(self, config: dict[str, Any], code_zip: bytes) -> Pool:
        key = (config["FunctionArn"], config.get("Version", "$LATEST"))
        revision = f"{config.get('RevisionId')} {config.get('CodeSha256')}"
        retired = None
        with self._lock:
            known, pool = self._pools.get(key, ("", None))
            if pool is None or known != revision:
                retired, pool = pool, Pool(self._spec(config, code_zip), self._max_environments)
                self._pools[key] = (revision, pool)
        if retired:
            retired.retire()
        return pool

    def _spec(self, config: dict[str, Any], code_zip: bytes) -> FunctionSpec:
        return FunctionSpec(
            arn=config["FunctionArn"],
            handler=config["Handler"],
            code_zip=code_zip,
            timeout=float(config.get("Timeout") or 3),
            memory_mb=int(config.get("MemorySize") or 128),
            version=config.get("Version", "$LATEST"),
            variables=(config.get("Environment") or {}).get("Variables") or {},
            credentials={name: value for name, value in execution_credentials(config).items() if value},
            endpoint_url=self._endpoint_url,
        )

    def _peak_memory_mb(self, function: dict[str, Any]) -> int:
        """For the REPORT line of the function's log."""
        config = function.get("config") or function
        with self._lock:
            _, pool = self._pools.get((config["FunctionArn"], config.get("Version", "$LATEST")), ("", None))
        return pool.statistics().peak_rss_bytes // 2**20 if pool else 0

    def _close_idle(self) -> None:
        while not self._closing.wait(IDLE_SECONDS / 10):
            with self._lock:
                pools = [pool for _, pool in self._pools.values()]
            for pool in pools:
                pool.close_idle()
