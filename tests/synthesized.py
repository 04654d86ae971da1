"""The local environment's templates and assets, synthesized once for all test processes, which run side by side."""

from __future__ import annotations

import fcntl
from pathlib import Path

from dreamdrop.local import synth

PROJECT = Path(__file__).resolve().parents[1]
CDK_OUT = PROJECT / "build" / "tests" / "cdk.out"


def synthesized() -> Path:
    CDK_OUT.parent.mkdir(parents=True, exist_ok=True)
    with CDK_OUT.with_name("lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        synth.synthesize(PROJECT, CDK_OUT)
    return CDK_OUT
