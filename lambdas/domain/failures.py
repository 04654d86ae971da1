"""What failed: one of our functions, the training job, or AWS. The classes are contracts/errors.py's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from contracts.errors import (
    DreamdropError,
    InternalError,
    Interrupted,
    NoCapacity,
    OutOfMemory,
    QuotaExceeded,
    SageMakerFailed,
    SpotReclaimed,
    TrainingCrashed,
    TrainingKilled,
    TrainingStopped,
    TrainingTimedOut,
    parse_error,
)
from contracts.pipeline import CaughtError
from lambdas.domain.training_job import EndedJob

_SHOWN = 300

# Of a refused request: Step Functions' error name and SageMaker's message. Of a failed job: the start of its reason.
_NO_CAPACITY = r"CapacityError|InsufficientCapacity|InsufficientInstanceCapacity"
_REFUSALS: tuple[tuple[str, Callable[[str], DreamdropError]], ...] = (
    (r"ResourceLimitExceeded", lambda text: QuotaExceeded(_quota_in_words(text))),
    (_NO_CAPACITY, lambda _: NoCapacity("AWS has none free.")),
    (
        r"InternalServer(Error|Exception)|InternalFailure|ServiceUnavailable|ThrottlingException|Status Code: 5\d\d",
        lambda _: SageMakerFailed("SageMaker failed with an internal error of its own."),
    ),
    # The latter: the name was used by the same request before, whose answer nobody got.
    (r"SdkClientException|ResourceInUse", lambda _: SageMakerFailed("SageMaker's answer to the request was lost.")),
)
_OF_PROGRAM: tuple[tuple[str, type[DreamdropError], str], ...] = (
    (r"exit code: (137|-9)\b", TrainingKilled, "The training program was killed, most likely for the host's memory."),
    (r"instance type with more memory", TrainingKilled, "The training needed more memory than the host has."),
    (r"(?i)out of memory|OutOfMemoryError", OutOfMemory, "The GPU ran out of memory."),
)


class Quota(NamedTuple):
    name: str  # as in Service Quotas
    limit: int


def classify(caught: CaughtError) -> DreamdropError:
    """The failure behind $states.errorOutput."""
    job = ended_job(caught)
    if job is not None:
        return _of_training_job(job)
    own = parse_error(str(_document(caught.Cause).get("errorMessage", caught.Cause)))
    if own:
        return own
    if is_timeout(caught):
        return Interrupted("The run took longer than the deployment allows.")
    if is_refusal(caught):
        refused = _refused(f"{caught.Error}: {caught.Cause}")
        return refused or InternalError(
            f"SageMaker refused the training job ({caught.Error}: {caught.Cause[:_SHOWN]})."
        )
    return InternalError(f"A step failed unexpectedly ({caught.Error}).")


def ended_job(caught: CaughtError) -> EndedJob | None:
    """The training job that failed; None when something else did, or the job was never made."""
    cause = _document(caught.Cause)
    return EndedJob.model_validate(cause) if "TrainingJobStatus" in cause else None


def is_refusal(caught: CaughtError) -> bool:
    """SageMaker said no to the request, or was not heard: there is no job, unless only its answer was lost."""
    return caught.Error.startswith("SageMaker.")


def is_timeout(caught: CaughtError) -> bool:
    """Train's, the only state with a limit of its own: nobody waits for the job any more."""
    return caught.Error == "States.Timeout"


def lacks_capacity(reason: str) -> bool:
    """Of an endpoint that failed: AWS had no instance for it, and may have one later."""
    return re.search(_NO_CAPACITY, reason) is not None


def quota_in(text: str) -> Quota | None:
    found = re.search(r"service limit '(?P<name>[^']+)' is (?P<limit>\d+) Instance", text)
    return Quota(found["name"], int(found["limit"])) if found else None


def _of_training_job(job: EndedJob) -> DreamdropError:
    if job.SecondaryStatus == "MaxRuntimeExceeded":
        return TrainingTimedOut("The training reached its time limit.")
    if job.SecondaryStatus in ("MaxWaitTimeExceeded", "Interrupted"):
        return SpotReclaimed("AWS took the spot instance back, or had none, for longer than the training may wait.")
    if job.has_waited_in_vain:
        return NoCapacity("AWS had no instance of this type for as long as the training may wait.")
    if job.TrainingJobStatus == "Stopped":
        return TrainingStopped("The training job was stopped from outside.")
    kind, _, text = job.FailureReason.partition(":")
    own = parse_error(text.partition(", exit code:")[0])
    return own or _refused(kind) or _of_program(job.FailureReason)


def _refused(text: str) -> DreamdropError | None:
    return next((error(text) for pattern, error in _REFUSALS if re.search(pattern, text)), None)


def _of_program(reason: str) -> DreamdropError:
    for pattern, error, cause in _OF_PROGRAM:
        if re.search(pattern, reason):
            return error(cause)
    return TrainingCrashed(f"The training job failed: {reason[:_SHOWN] or 'no reason given'}")


def _quota_in_words(text: str) -> str:
    quota = quota_in(text)
    return f"The account's quota '{quota.name}' is {quota.limit}." if quota else "The account's quota is used up."


def _document(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
