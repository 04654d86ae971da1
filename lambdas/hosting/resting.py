"""What an endpoint in service needs, so that it costs nothing while nobody asks."""

from __future__ import annotations

from datetime import UTC, datetime

from contracts.environment import HostEnvironment
from lambdas.adapters import hosting
from lambdas.adapters.lines import Lines
from lambdas.hosting.planning import scaling_of


def let_it_rest(env: HostEnvironment, endpoint_name: str) -> None:
    """Safe to repeat. One that is not scaled has just been made or updated: without a request it may never see a metric
    that would let it sleep, so it is sent to sleep at once."""
    fresh = not hosting.scales(endpoint_name)
    at_once = fresh and env.sleep_after_creation and not is_awaited(env, endpoint_name)
    hosting.let_it_sleep(scaling_of(env, endpoint_name), at_once=at_once)


def is_awaited(env: HostEnvironment, endpoint_name: str) -> bool:
    """It owes an answer to a request of the API."""
    waiting = Lines(env.table_name).waiting(endpoint_name, datetime.now(UTC))
    return next(waiting, None) is not None
