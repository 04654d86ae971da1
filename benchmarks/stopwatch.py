"""Runs a training program in this process, notes when each of its first steps was done, and ends it.

`python -m benchmarks.stopwatch OUT.json STEPS MODULE_OR_SCRIPT ARGUMENTS...`: the same for every program that trains
with torch. A GPU works behind the host's back, so there the device notes the time, and nobody waits for it.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.machine import peak_resident
from training_container.dreambooth.optimizer import AdamW

STATUS = Path("/proc/self/status")


class Stopwatch:
    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._times: list[float] = []
        self._processor: list[float] = []
        self._events: list[torch.cuda.Event] = []

    def step_done(self, *_: object) -> None:
        """Raises SystemExit after the last step."""
        self._processor.append(time.process_time())
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self._events.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
            self._events[-1].record()
            if not self._times:
                self._events[0].synchronize()  # once: it places the device's times on the host's clock
        if not self._times or not self._events:
            self._times.append(time.monotonic())
        if len(self._processor) == self._steps:
            raise SystemExit

    def read(self) -> dict[str, Any]:
        """steps: on the monotonic clock, which all processes of a machine share. processor: time of this process."""
        times, peak = self._times, peak_resident(STATUS.read_text())
        if self._events:
            torch.cuda.synchronize()
            times = [self._times[0] + self._events[0].elapsed_time(event) / 1000 for event in self._events]
            peak = torch.cuda.max_memory_allocated()
        return {"steps": times, "processor": self._processor, "peak_bytes": peak}


def watch_our_optimizer(stopwatch: Stopwatch) -> None:
    """It is none of torch's, so torch's hook does not know it."""
    original = AdamW.step

    def step(optimizer: AdamW) -> None:
        original(optimizer)
        stopwatch.step_done()

    AdamW.step = step  # type: ignore[assignment,method-assign]


def main() -> None:
    out, steps, program, *arguments = sys.argv[1:]
    sys.argv = [program, *arguments]
    stopwatch = Stopwatch(int(steps))
    register_optimizer_step_post_hook(stopwatch.step_done)
    watch_our_optimizer(stopwatch)
    try:
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    finally:
        Path(out).write_text(json.dumps(stopwatch.read()), encoding="utf-8")


if __name__ == "__main__":
    main()
