"""Our trainer and diffusers' DreamBooth scripts side by side: speed, time to the first step and memory.

`python -m benchmarks.train --reference DIR` times both on the same model, pictures and settings, taking turns, each run
a process of its own, prints a table and writes benchmarks/train.json. On a machine with a GPU it times the GPU's cases.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from benchmarks.machine import Device, beside_others, gpu_name, machine, versions
from benchmarks.models import ModelName, prepare_model
from benchmarks.progress import say
from benchmarks.reference import ReferenceMissing, account_of, find_scripts
from benchmarks.train_plan import Case, cases_on
from benchmarks.train_report import Measured, record, rows_of, table
from benchmarks.train_runs import SIDES, Side, Timing, lay_out, program_of, run
from contracts.training import Method

OUT = Path("benchmarks/train.json")
WORK = Path("build/bench-train")
MORE_LIBRARIES = ("accelerate", "torchvision", "bitsandbytes", "xformers")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        scripts = find_scripts(options.reference)
    except ReferenceMissing as missing:
        sys.stderr.write(f"{missing}\n")
        return 1
    device: Device = options.device or ("cuda" if gpu_name() else "cpu")
    gpu = gpu_name() if device == "cuda" else ""
    cases = [case for case in cases_on(device) if not options.cases or case.name in options.cases]
    where = machine() | {"gpu": gpu or None, "more_libraries": versions(MORE_LIBRARIES)}

    shutil.rmtree(WORK, ignore_errors=True)
    models: dict[ModelName, Path] = {case.model: prepare_model(WORK, case.model) for case in cases}
    measured = {case.name: measure(case, models[case.model], scripts, device, options.repeats) for case in cases}
    rows = {case.name: rows_of(case, measured[case.name], gpu) for case in cases}
    say(table([row for of_case in rows.values() for row in of_case]))
    if options.cases:
        return 0  # a part of the table is not what the repository records
    found = {
        "machine": where,
        "reference": account_of(scripts),
        "cases": {case.name: record(case, measured[case.name], rows[case.name]) for case in cases},
    }
    options.out.write_text(json.dumps(beside_others(options.out, device, found), indent=1) + "\n", encoding="utf-8")
    say(f"written: {options.out}")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.add_argument("--reference", type=Path, metavar="DIR", help="a checkout with diffusers' example scripts")
    parser.add_argument("--device", choices=get_args(Device), help="default: the GPU if there is one")
    parser.add_argument("--cases", action="append", metavar="NAME", help="only this one, and nothing is written")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each side in each case")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args(arguments)


def measure(case: Case, base_model: Path, scripts: Mapping[Method, Path], device: Device, repeats: int) -> Measured:
    """Taking turns, so that what else the machine does falls on both."""
    timings: dict[Side, list[Timing]] = {side: [] for side in SIDES}
    for number in range(repeats):
        folder = WORK / f"{case.name.replace(', ', '-')}-{number}"
        inputs = lay_out(folder, case, base_model, device)
        for side in SIDES:
            timing = run(side, program_of(side, case, inputs, scripts), folder, device)
            timings[side].append(timing)
            say(f"{case.name}, {side}: {timing.steps_a_second:.2f} steps a second")
    return timings


if __name__ == "__main__":
    sys.exit(main())
