"""Which calls of the local cloud go wrong on purpose, and how: for tests that want to see what survives it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

STATE_MACHINE = "states"  # the caller of what Step Functions calls by itself
PROVISION = "sagemaker:ProvisionInstance"  # no call of anybody: SageMaker looks for the instance of a training job
RUN_JOB = "sagemaker:RunTrainingProgram"  # no call either: the program of a training job runs

Kind = Literal[
    "throttled",  # refused: too many requests
    "error",  # refused: 500
    "unavailable",  # refused: 503
    "unanswered",  # the connection breaks before anything is done
    "answer lost",  # it is done, and the connection breaks before the answer is whole
    "late",  # answered after some seconds
    "caller killed",  # SIGKILL to the function that calls, before anything is done
    "no capacity",  # of PROVISION: there is no instance
    "reclaimed",  # of RUN_JOB: SIGTERM after some seconds, and the job starts again
    "seen",  # nothing goes wrong: the calls are counted
]


class Fault(BaseModel):
    """The calls that it is about pass until `skip` of them have; then `times` of them go wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    action: str = Field("*", description="As IAM names it; * stands for anything: dynamodb:*, s3:PutObject.")
    caller: str = Field("*", description=f"Name of the function that calls, {STATE_MACHINE}, or empty: anybody else.")
    about: list[str] = Field([], description="Texts that the request has somewhere, such as a subject's name.")
    skip: int = Field(0, ge=0)
    times: int = Field(1, ge=1)
    seconds: float = Field(0, ge=0)


class KnownFault(Fault):
    met: int = Field(description="How many calls that it is about have come.")

    @property
    def happened(self) -> int:
        return max(0, min(self.met - self.skip, self.times))


@dataclass(frozen=True)
class Call:
    action: str
    caller: str
    text: str  # of the request, whole

    def is_meant_by(self, fault: Fault) -> bool:
        return (
            fnmatchcase(self.action, fault.action)
            and fnmatchcase(self.caller, fault.caller)
            and all(text in self.text for text in fault.about)
        )


class Faults:
    """Thread-safe."""

    def __init__(self) -> None:
        self._known: list[KnownFault] = []
        self._lock = threading.Lock()

    def add(self, faults: Iterable[Fault]) -> None:
        with self._lock:
            self._known += [KnownFault(**fault.model_dump(), met=0) for fault in faults]

    def clear(self) -> None:
        with self._lock:
            self._known = []

    def known(self) -> list[KnownFault]:
        with self._lock:
            return list(self._known)

    def meet(self, call: Call) -> Fault | None:
        """What is to happen to the call. Every fault that is about it counts it; the first whose turn it is happens."""
        happening: Fault | None = None
        with self._lock:
            for index, fault in enumerate(self._known):
                if not call.is_meant_by(fault):
                    continue
                self._known[index] = fault.model_copy(update={"met": fault.met + 1})
                its_turn = fault.skip <= fault.met < fault.skip + fault.times
                if its_turn and happening is None and fault.kind != "seen":
                    happening = fault
        return happening
