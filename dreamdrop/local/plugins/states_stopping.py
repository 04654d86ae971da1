"""Step Functions: how an execution ends before its last state.

Warts mended: TimeoutSeconds of the machine is ignored; StopExecution and timeouts do not reach the training job that a
`.sync` task waits for; a task that fails after the execution was stopped is retried, and turns ABORTED into FAILED.
"""

from __future__ import annotations

import contextvars
import json
import threading
from collections.abc import Callable
from typing import Any

from ministack.core.responses import now_iso
from ministack.services import stepfunctions as sfn

from dreamdrop.local.plugins.scope import in_account

StopJob = Callable[[], None]

_current_execution: contextvars.ContextVar[str | None] = contextvars.ContextVar("current_execution", default=None)


def current_execution() -> dict[str, Any] | None:
    """The one that the calling task belongs to."""
    execution: dict[str, Any] | None = sfn._executions.get(_current_execution.get())
    return execution


class WaitingJobs:
    """The jobs that `.sync` tasks wait for, by execution."""

    def __init__(self) -> None:
        self._jobs: dict[str | None, list[StopJob]] = {}
        self._lock = threading.Lock()

    def add(self, stop: StopJob) -> None:
        with self._lock:
            self._jobs.setdefault(_current_execution.get(), []).append(stop)

    def discard(self, stop: StopJob) -> None:
        with self._lock:
            jobs = self._jobs.get(_current_execution.get(), [])
            if stop in jobs:
                jobs.remove(stop)

    def stop(self, execution_arn: str | None) -> None:
        with self._lock:
            jobs = self._jobs.pop(execution_arn, [])
        for stop in jobs:
            stop()


def install(waiting: WaitingJobs) -> None:
    _stop_reaches_jobs(waiting)
    _task_timeout_reaches_jobs(waiting)
    _run_with_timeout(waiting)
    _ended_stays_ended()


def _stop_reaches_jobs(waiting: WaitingJobs) -> None:
    stop_stock = sfn._stop_execution

    def stop(data: dict[str, Any]) -> Any:
        answer = stop_stock(data)
        # Stopping a job may wait for its process; StopExecution answers on the event loop and must not.
        arn = data.get("executionArn")
        threading.Thread(target=contextvars.copy_context().run, args=(waiting.stop, arn), daemon=True).start()
        return answer

    sfn._stop_execution = stop


def _task_timeout_reaches_jobs(waiting: WaitingJobs) -> None:
    invoke_stock = sfn._invoke_resource_with_timeout

    def invoke(resource: str, input_data: Any, timeout: float) -> Any:
        try:
            return invoke_stock(resource, input_data, timeout)
        except sfn._ExecutionError as error:
            if error.error == "States.Timeout":
                waiting.stop(_current_execution.get())
            raise

    sfn._invoke_resource_with_timeout = invoke


def _run_with_timeout(waiting: WaitingJobs) -> None:
    run_stock = sfn._run_execution

    def run(execution_arn: str) -> None:
        _current_execution.set(execution_arn)
        execution = sfn._executions[execution_arn]
        machine = sfn._state_machines.get(execution["stateMachineArn"]) or {"definition": "{}"}
        seconds = json.loads(machine["definition"]).get("TimeoutSeconds")
        if not seconds:
            run_stock(execution_arn)
            return

        def expire() -> None:
            if execution["status"] == "RUNNING":
                _time_out(execution)
                waiting.stop(execution_arn)

        timer = threading.Timer(seconds, contextvars.copy_context().run, (expire,))
        timer.daemon = True
        timer.start()
        try:
            run_stock(execution_arn)
        finally:
            timer.cancel()

    sfn._run_execution = run


def _time_out(execution: dict[str, Any]) -> None:
    execution.update(status="TIMED_OUT", error="States.Timeout", stopDate=now_iso())
    details = {"executionTimedOutEventDetails": {"error": "States.Timeout"}}
    sfn._add_event(execution, "ExecutionTimedOut", details)
    sfn._emit_execution_status_event(execution)


def _ended_stays_ended() -> None:
    fail_stock, retrier_stock = sfn._fail_execution, sfn._find_matching_retrier

    def fail(execution: dict[str, Any], error: str, cause: str) -> None:
        if execution["status"] == "RUNNING":
            fail_stock(execution, error, cause)

    def retrier(retriers: Any, error: str, counts: Any) -> Any:
        execution = sfn._executions.get(_current_execution.get())
        if execution and execution["status"] != "RUNNING":
            return None, -1
        return retrier_stock(retriers, error, counts)

    sfn._fail_execution, sfn._find_matching_retrier = fail, retrier


def report_interrupted(account: str, region: str) -> list[str]:
    """Tells the event bus of the executions that a stop of the local cloud cut off. Returns their ARNs.

    Wart: MiniStack marks them FAILED (States.ServiceRestart) when it loads its state, and tells nobody.
    """

    def report() -> list[str]:
        cut_off = [execution for execution in sfn._executions.values() if _is_untold(execution)]
        for execution in cut_off:
            details = {"error": execution["error"], "cause": execution["cause"]}
            sfn._add_event(execution, "ExecutionFailed", {"executionFailedEventDetails": details})
            sfn._emit_execution_status_event(execution)
        return [execution["executionArn"] for execution in cut_off]

    return in_account(account, region, report)


def _is_untold(execution: dict[str, Any]) -> bool:
    if execution.get("error") != "States.ServiceRestart":
        return False
    return all(event["type"] != "ExecutionFailed" for event in execution["events"])
