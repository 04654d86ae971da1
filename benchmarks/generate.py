"""Our generator and diffusers' pipeline side by side: start, speed, switches between subjects, memory and pictures.

`python -m benchmarks.generate` asks both for the same, taking turns, each in a process of its own, prints a table and
writes benchmarks/generate.json. On a machine with a GPU it measures there. generate_plan.py tells what is compared.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from benchmarks.bucket import bucket_server
from benchmarks.generate_plan import PARITY_BAR, PARITY_CASE, Case, cases_on
from benchmarks.generate_report import parity_record, parity_table, record, rows_of, summary, table
from benchmarks.generate_runs import Effort, compare_pictures, measure
from benchmarks.generate_sides import Place
from benchmarks.generate_subjects import make_subjects, publish
from benchmarks.machine import Device, beside_others, gpu_name, machine
from benchmarks.models import prepare_model
from benchmarks.progress import say

OUT = Path("benchmarks/generate.json")
WORK = Path("build/bench-generate")
PICTURES, REPEATS = 15, 2


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    device: Device = options.device or ("cuda" if gpu_name() else "cpu")
    effort = Effort(options.pictures, options.repeats)
    where = machine() | {"gpu": (gpu_name() if device == "cuda" else "") or None}
    cases = [case for case in cases_on(device) if not options.models or case.model in options.models]
    parity_bar = PARITY_BAR if device == "cpu" else None  # half precision rounds differently in every order of sums

    shutil.rmtree(WORK, ignore_errors=True)
    samples = {}
    for case in cases:
        with prepared(case, device) as place:
            samples[case.model] = measure(case, place, effort)
    with prepared(PARITY_CASE, device) as place:
        differences = compare_pictures(PARITY_CASE, place)
    rows = {case.model: rows_of(case, samples[case.model]) for case in cases}
    every_row = [row for of_model in rows.values() for row in of_model]
    say("\n\n".join([table(every_row), parity_table(differences), summary(every_row, differences, parity_bar)]))
    if options.models:
        return 0  # a part of the table is not what the repository records
    found = {
        "machine": where,
        "cases": {case.model: record(case, samples[case.model], rows[case.model]) for case in cases},
        "parity": parity_record(PARITY_CASE, differences, parity_bar),
    }
    options.out.write_text(json.dumps(beside_others(options.out, device, found), indent=1) + "\n", encoding="utf-8")
    say(f"written: {options.out}")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generate", description=__doc__)
    parser.add_argument("--device", choices=get_args(Device), help="default: the GPU if there is one")
    parser.add_argument("--models", action="append", metavar="NAME", help="only this one, and nothing is written")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="of each side; the rest in proportion")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="starts of each side")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args(arguments)


@contextmanager
def prepared(case: Case, device: Device) -> Iterator[Place]:
    """A base model and four subjects, on the disk and in a bucket. What they took is given back afterwards."""
    folder = WORK / case.model.replace("/", "-")
    base_model = prepare_model(folder, case.model)
    subjects = make_subjects(base_model, folder / "subjects")
    for subject in subjects:
        publish(subject, base_model, folder / "buckets")
    with bucket_server(folder / "buckets") as address:
        yield Place(base_model, folder / "processes", device, address, subjects)
    shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
