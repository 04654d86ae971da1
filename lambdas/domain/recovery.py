"""After a failure: is another attempt worth its money, and what does it do differently?

Each class of failure that can succeed on retry has its own way (docs/decisions/0022-recovery.md):

    out of memory                the next memory tier, while there is one
    killed from outside          the next memory tier, once: most often the host ran out of memory
    no capacity, no quota        the next instance type; at the ladder's end on demand instead of spot or a warm pool,
                                 and then, after a wait that doubles, once more from the start; as often as there is
                                 time where a quota is only in use
    spot instance taken back     from the checkpoint, first on spot again, then on demand
    an error of SageMaker's own  the same again, after a wait that doubles
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from contracts.errors import (
    DreamdropError,
    NoCapacity,
    OutOfMemory,
    QuotaExceeded,
    SageMakerFailed,
    SpotReclaimed,
    TrainingKilled,
)
from contracts.pipeline import Attempt, FailedState, Recovery, TrainingCapacity
from contracts.training import HIGHEST_MEMORY_TIER
from lambdas.domain.failures import Quota, classify, quota_in

MAX_ATTEMPTS = 99  # of any kind; a version's number has two digits
MAX_LADDERS = 3
MOST_OFTEN: dict[type[DreamdropError], int] = {TrainingKilled: 1, SageMakerFailed: 2, SpotReclaimed: 3}
SPOT_TRIES = 2
LADDER_PAUSES = 30  # of the shortest: a quarter of an hour, where that is 30 s; the second is twice as long
_QUOTAS: dict[TrainingCapacity, tuple[str, ...]] = {  # as Service Quotas names them, behind the instance type
    "on-demand": ("for training job usage",),
    "spot": ("for spot training job usage",),
    "warm-pool": ("for training job usage", "for training warm pool usage"),
}


class _Next(NamedTuple):
    attempt: Attempt
    pauses: int = 1


def recover(
    failed: FailedState,
    ladder: Sequence[str],
    *,
    capacity: TrainingCapacity = "on-demand",
    pause_seconds: float = 0,
    jitter: float = 0.5,
) -> Recovery:
    """Retries only a failed training, and only what can succeed on retry.

    ladder: the instance types. pause_seconds: the shortest pause. jitter, from 0 to 1, spreads what failed together.
    """
    error = classify(failed.error)
    in_training = failed.training_job is not None and failed.artifact_uri is None
    if not (in_training and error.retryable and failed.attempt < MAX_ATTEMPTS):
        return _end(failed, error)
    try:
        following = _following(failed, error, ladder, capacity)
    except DreamdropError as final:
        return _end(failed, final)
    wait = round(following.pauses * pause_seconds * (0.5 + jitter))
    return Recovery(**following.attempt.model_dump(), retry=True, wait_seconds=wait)


def _end(failed: FailedState, error: DreamdropError) -> Recovery:
    return Recovery(**failed.tried.model_dump(), retry=False, failure=error.report)


def _following(failed: FailedState, error: DreamdropError, ladder: Sequence[str], capacity: TrainingCapacity) -> _Next:
    """Raises the error that the run ends with when nothing is left to try."""
    times = failed.failures.get(error.code, 0) + 1
    if times > MOST_OFTEN.get(type(error), times):
        raise error
    failures = {**failed.failures, error.code: times}
    tried = failed.tried.model_copy(update={"attempt": failed.attempt + 1, "failures": failures})
    if isinstance(error, OutOfMemory | TrainingKilled):
        if tried.memory_tier >= HIGHEST_MEMORY_TIER:
            raise error
        return _Next(tried.model_copy(update={"memory_tier": tried.memory_tier + 1}))
    if isinstance(error, NoCapacity | QuotaExceeded):
        return _climb(tried, error, quota_in(failed.error.Cause), ladder, capacity)
    if isinstance(error, SpotReclaimed):
        return _Next(tried.model_copy(update={"on_demand": times >= SPOT_TRIES}))
    return _Next(tried, pauses=2 ** (times - 1))


def _climb(
    tried: Attempt, error: DreamdropError, refused: Quota | None, ladder: Sequence[str], capacity: TrainingCapacity
) -> _Next:
    """The next rung for which the account may have an instance: a quota of 0 does not change by waiting, one that is
    in use does, once another training has ended."""
    if refused and refused.limit == 0:
        tried = tried.model_copy(update={"without_quota": [*tried.without_quota, refused.name]})
    elif refused:
        tried = tried.model_copy(update={"quota_in_use": True})
    above = [rung for rung in _allowed(tried, ladder, capacity) if rung > tried.ladder_rung]
    if above:
        return _Next(tried.model_copy(update={"ladder_rung": above[0]}))
    was_on_demand = tried.on_demand or capacity == "on-demand"
    tried = tried.model_copy(update={"on_demand": True})
    allowed = _allowed(tried, ladder, capacity)
    if not allowed:
        missing = ", ".join(f"'{name}'" for name in tried.without_quota)
        raise QuotaExceeded(f"The account's quota is 0 for every instance type that may be used: {missing}.")
    start = tried.model_copy(update={"ladder_rung": allowed[0], "quota_in_use": False})
    if not was_on_demand:
        return _Next(start)
    if tried.quota_in_use:
        return _Next(start, pauses=LADDER_PAUSES)
    if tried.ladder + 1 >= MAX_LADDERS:
        raise error
    return _Next(start.model_copy(update={"ladder": tried.ladder + 1}), pauses=LADDER_PAUSES * 2**tried.ladder)


def _allowed(tried: Attempt, ladder: Sequence[str], capacity: TrainingCapacity) -> list[int]:
    quotas = _QUOTAS["on-demand" if tried.on_demand else capacity]
    return [
        rung
        for rung, instance_type in enumerate(ladder)
        if not any(f"{instance_type} {quota}" in tried.without_quota for quota in quotas)
    ]
