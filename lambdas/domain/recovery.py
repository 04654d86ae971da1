"""After a failure: what was it, and is another attempt worth its money?"""

from __future__ import annotations

import json
from typing import Any

from contracts.errors import (
    DreamdropError,
    InternalError,
    Interrupted,
    NoCapacity,
    OutOfMemory,
    TrainingCrashed,
    TrainingKilled,
    TrainingStopped,
    TrainingTimedOut,
    parse_error,
)
from contracts.pipeline import CaughtError, FailedState, Recovery
from contracts.training import HIGHEST_MEMORY_TIER

MAX_ATTEMPTS = 5
_CAPACITY_ERRORS = ("ResourceLimitExceeded", "CapacityError", "InsufficientCapacity", "InsufficientInstanceCapacity")


def classify(caught: CaughtError) -> DreamdropError:
    """The failure behind $states.errorOutput: of one of our functions, of the training job, or of AWS."""
    cause = _document(caught.Cause)
    if "TrainingJobStatus" in cause:
        return _of_training_job(cause)
    own = parse_error(str(cause.get("errorMessage", caught.Cause)))
    if own:
        return own
    if _names_capacity(caught.Error + caught.Cause):
        return NoCapacity("AWS refused the instance: out of capacity or quota.")
    if caught.Error == "States.Timeout":
        return Interrupted("The run took longer than the deployment allows.")
    return InternalError(f"A step failed unexpectedly ({caught.Error}).")


def recover(failed: FailedState, rungs: int) -> Recovery:
    """Retries only a failed training, and only what can succeed on retry. `rungs`: length of the instance ladder."""
    error = classify(failed.error)
    in_training = failed.training_job is not None and failed.artifact_uri is None
    if not (in_training and error.retryable and failed.attempt < MAX_ATTEMPTS):
        return Recovery(retry=False, failure=error.report)
    rung, tier = failed.ladder_rung, failed.memory_tier
    if isinstance(error, NoCapacity):
        rung += 1
    elif isinstance(error, OutOfMemory):
        tier += 1
    elif failed.attempt > 1:
        return Recovery(retry=False, failure=error.report)
    else:  # killed from outside: most often the host ran out of memory
        tier += 1
    if rung >= rungs or tier > HIGHEST_MEMORY_TIER:
        return Recovery(retry=False, failure=error.report)
    return Recovery(retry=True, attempt=failed.attempt + 1, ladder_rung=rung, memory_tier=tier)


def _document(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _names_capacity(text: str) -> bool:
    return any(name in text for name in _CAPACITY_ERRORS)


def _of_training_job(job: dict[str, Any]) -> DreamdropError:
    if job.get("SecondaryStatus") == "MaxRuntimeExceeded":
        return TrainingTimedOut("The training reached its time limit.")
    if job.get("TrainingJobStatus") == "Stopped":
        return TrainingStopped("The training job was stopped from outside.")
    reason = str(job.get("FailureReason", ""))
    if _names_capacity(reason):
        return NoCapacity("AWS has no instance of this type free.")
    own = parse_error(reason.partition(", exit code:")[0])
    if own:
        return own
    if "exit code: 137" in reason:
        return TrainingKilled("The training program was killed, most likely because the machine ran out of memory.")
    return TrainingCrashed(f"The training job failed: {reason[:300] or 'no reason given'}")
