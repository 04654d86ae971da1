"""The Lambda environments on AWS's own runtime client, without the emulator."""

from __future__ import annotations

import io
import os
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dreamdrop.local.lambda_runtime.function import FunctionSpec
from dreamdrop.local.lambda_runtime.pool import Pool

GOOD = """
import json, os, sys, time

def handler(event, context):
    print("serving", context.aws_request_id)
    if "raise" in event:
        raise LookupError("no such thing")
    if "exit" in event:
        sys.exit(event["exit"])
    if "kill" in event:
        os.kill(os.getpid(), 9)
    time.sleep(event.get("sleep", 0))
    return {
        "pid": os.getpid(), "environment": dict(os.environ), "path": sys.path,
        "remaining": context.get_remaining_time_in_millis(), "arn": context.invoked_function_arn,
    }
"""
SLOW_TO_IMPORT = (
    "import time\ntime.sleep(1.2)\ndef handler(event, context): return context.get_remaining_time_in_millis()"
)
BROKEN = "import a_module_that_is_nowhere"

PoolMaker = Callable[..., Pool]


@pytest.fixture(scope="module")
def make_pool() -> Iterator[PoolMaker]:
    pools: list[Pool] = []

    def make(code: str, max_environments: int = 4, timeout: float = 5, **spec: Any) -> Pool:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr("module.py", code)
        arn = f"arn:aws:lambda:us-east-1:000000000000:function:test{len(pools)}"
        pool = Pool(FunctionSpec(arn, "module.handler", archive.getvalue(), timeout, **spec), max_environments)
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.kill()


@pytest.fixture(scope="module")
def good(make_pool: PoolMaker) -> Pool:
    return make_pool(GOOD)


def in_threads(count: int, work: Callable[[], object]) -> float:
    """-> seconds that all took together"""
    threads = [threading.Thread(target=work) for _ in range(count)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - start


def test_a_second_request_is_served_by_the_same_process(good: Pool) -> None:
    first, second = (good.invoke(b"{}") for _ in range(2))
    assert first.value()["pid"] == second.value()["pid"]
    assert first.value()["arn"] == good.spec.arn


def test_what_the_function_writes_is_the_log_of_its_own_request(good: Pool) -> None:
    good.invoke(b"{}", "earlier-request")
    log = good.invoke(b"{}", "this-request").log
    assert "serving this-request" in log
    assert "earlier-request" not in log


def test_an_exception_keeps_its_class_and_the_process_survives(good: Pool) -> None:
    before = good.invoke(b"{}").value()["pid"]
    outcome = good.invoke(b'{"raise": 1}')
    assert outcome.failed
    assert outcome.value()["errorType"] == "LookupError"
    assert outcome.value()["errorMessage"] == "no such thing"
    assert outcome.value()["stackTrace"]
    assert good.invoke(b"{}").value()["pid"] == before


@pytest.mark.parametrize(("event", "how"), [(b'{"exit": 3}', "exit status 3"), (b'{"kill": 1}', "signal: SIGKILL")])
def test_a_process_that_ends_is_reported_and_replaced(good: Pool, event: bytes, how: str) -> None:
    before = good.invoke(b"{}").value()["pid"]
    outcome = good.invoke(event)
    assert outcome.value()["errorType"] == "Runtime.ExitError"
    assert how in outcome.value()["errorMessage"]
    assert good.invoke(b"{}").value()["pid"] != before


def test_a_function_that_takes_too_long_is_killed(make_pool: PoolMaker) -> None:
    pool = make_pool(GOOD, timeout=0.4)
    pid = pool.invoke(b"{}").value()["pid"]
    outcome = pool.invoke(b'{"sleep": 30}')
    assert outcome.value()["errorType"] == "Sandbox.Timedout"
    assert "timed out after 0.40 seconds" in outcome.value()["errorMessage"]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_module_that_cannot_be_imported_is_named(make_pool: PoolMaker) -> None:
    outcome = make_pool(BROKEN).invoke(b"{}")
    assert outcome.failed
    assert outcome.value()["errorType"] == "Runtime.ImportModuleError"
    assert "a_module_that_is_nowhere" in outcome.value()["errorMessage"]


def test_the_time_of_the_start_is_not_the_time_of_the_function(make_pool: PoolMaker) -> None:
    outcome = make_pool(SLOW_TO_IMPORT, timeout=1).invoke(b"{}")
    assert not outcome.failed
    assert outcome.value() > 700


def test_requests_at_once_take_environments_up_to_the_cap_and_then_wait(make_pool: PoolMaker) -> None:
    pool = make_pool(GOOD, max_environments=2)
    outcomes = []
    in_threads(5, lambda: outcomes.append(pool.invoke(b'{"sleep": 0.2}')))
    assert [outcome.failed for outcome in outcomes] == [False] * 5
    assert len({outcome.value()["pid"] for outcome in outcomes}) == 2
    assert pool.statistics().cold_starts == 2
    assert pool.statistics().invocations == 5


def test_an_environment_that_idles_too_long_ends(make_pool: PoolMaker) -> None:
    pool = make_pool(GOOD)
    pid = pool.invoke(b"{}").value()["pid"]
    pool.close_idle(older_than=3600)
    assert pool.statistics().environments == 1
    pool.close_idle(older_than=0)
    assert pool.statistics().environments == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_memory_is_measured(good: Pool) -> None:
    good.invoke(b"{}")
    assert good.statistics().peak_rss_bytes > 5_000_000


def test_a_retired_pool_lets_requests_in_flight_finish(make_pool: PoolMaker) -> None:
    pool = make_pool(GOOD)
    pool.invoke(b"{}")
    outcomes = []
    request = threading.Thread(target=lambda: outcomes.append(pool.invoke(b'{"sleep": 0.5}')))
    request.start()
    time.sleep(0.2)
    pool.retire()
    request.join()
    assert not outcomes[0].failed
    assert pool.statistics().environments == 0


def test_a_killed_pool_fails_requests_in_flight(make_pool: PoolMaker) -> None:
    pool = make_pool(GOOD, timeout=60)
    pool.invoke(b"{}")
    outcomes = []
    request = threading.Thread(target=lambda: outcomes.append(pool.invoke(b'{"sleep": 30}')))
    request.start()
    time.sleep(0.2)
    pool.kill()
    request.join(timeout=5)
    assert outcomes[0].value()["errorType"] == "Runtime.ExitError"


def test_a_function_sees_lambda_and_not_the_developer(make_pool: PoolMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "the-developers-own")
    monkeypatch.setenv("PYTHONPATH", "/somewhere/of/the/developer")
    monkeypatch.setenv("A_SECRET", "of the developer")
    pool = make_pool(
        GOOD,
        memory_mb=512,
        variables={"TABLE": "things", "AWS_LAMBDA_FUNCTION_NAME": "cannot be overridden"},
        credentials={"AWS_ACCESS_KEY_ID": "role"},
        endpoint_url="http://127.0.0.1:1",
    )
    seen = pool.invoke(b"{}").value()
    environment = seen["environment"]
    assert not {"AWS_PROFILE", "A_SECRET"} & environment.keys()
    assert "/somewhere/of/the/developer" not in seen["path"]
    assert seen["path"][0] == environment["LAMBDA_TASK_ROOT"]
    assert environment["TABLE"] == "things"
    assert environment["AWS_ACCESS_KEY_ID"] == "role"
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
    assert environment["AWS_REGION"] == "us-east-1"
    assert environment["AWS_LAMBDA_FUNCTION_NAME"] == pool.spec.name
    assert environment["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "512"
    assert environment["POWERTOOLS_TRACE_DISABLED"] == "true"


def test_a_warm_request_takes_milliseconds(good: Pool) -> None:
    good.invoke(b"{}")
    start = time.monotonic()
    for _ in range(50):
        good.invoke(b"{}")
    assert (time.monotonic() - start) / 50 < 0.03
