"""One timed training: its files, its process, and what the stopwatch noted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any, Literal

from benchmarks.machine import Device
from benchmarks.plan import SEED
from benchmarks.reference import Inputs, flags_of
from benchmarks.train_plan import CLASS_PICTURES, MEASURED, PHOTOS, WARM_UP, Case
from contracts.storage import CLASS_IMAGES, DATASET_INFO
from contracts.training import Method
from toyworld.scenes import draw_scene, sample_attributes, sample_view, toy_of
from toyworld.subjects import class_prompt, draw_photo, instance_prompt

Side = Literal["ours", "reference"]
SIDES: tuple[Side, ...] = ("ours", "reference")

REPOSITORY = Path(__file__).resolve().parents[1]
SUBJECT = "robot"
TOLD_OF_A_FAILURE = 3000  # characters


class RunFailed(Exception):
    """The program ended before its last step."""


@dataclass(frozen=True)
class Timing:
    steps_a_second: float  # of the median step
    first_step_seconds: float  # since the process was started
    peak_mib: float
    mean_step_seconds: float  # also counts what happens now and then
    processor_seconds: float  # of the median step: hardly changed by what else the machine does


def lay_out(folder: Path, case: Case, base_model: Path, device: Device) -> Inputs:
    """Both sides' files. The pictures have the training size: nothing is gained by reading large ones only once."""
    side = case.settings.resolution or 0
    dataset = folder / "input" / "data" / "training"
    inputs = Inputs(
        base_model=base_model,
        photos=folder / "photos",
        class_pictures=dataset / CLASS_IMAGES,
        instance_prompt=instance_prompt(SUBJECT),
        class_prompt=class_prompt(SUBJECT),
        out=folder / "out",
    )
    for directory in (inputs.photos, inputs.class_pictures, folder / "input" / "config"):
        directory.mkdir(parents=True)
    for number in range(PHOTOS):
        photo = draw_photo(SUBJECT, number, side)
        photo.save(inputs.photos / f"photo-{number}.png")
        photo.save(dataset / f"photo-{number}.png")
    for number in range(CLASS_PICTURES[device]):
        rng = Random(f"{SEED} class {number}")  # noqa: S311
        attributes = sample_attributes(rng)
        picture, _ = draw_scene(toy_of(attributes, rng), attributes.place, sample_view(rng), side, rng)
        picture.save(inputs.class_pictures / f"class-{number:03}.png")
    (folder / "input" / "data" / "model").symlink_to(base_model.resolve())
    info = {"instance_prompt": inputs.instance_prompt, "class_prompt": inputs.class_prompt}
    (dataset / DATASET_INFO).write_text(json.dumps(info), encoding="utf-8")
    asked = json.dumps(case.settings.to_sagemaker())
    (folder / "input" / "config" / "hyperparameters.json").write_text(asked, encoding="utf-8")
    return inputs


def program_of(side: Side, case: Case, inputs: Inputs, scripts: Mapping[Method, Path]) -> list[str]:
    if side == "ours":
        return ["training_container", "train"]
    return [str(scripts[case.settings.method]), *flags_of(case.settings, inputs)]


def run(side: Side, program: Sequence[str], folder: Path, device: Device) -> Timing:
    """Raises RunFailed with the end of the program's log."""
    noted, log = folder / f"{side}.json", folder / f"{side}.log"
    environment = {**os.environ, "SAGEMAKER_BASE_DIR": str(folder), "HF_HUB_OFFLINE": "1"}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    steps = WARM_UP + MEASURED[device]
    with log.open("w", encoding="utf-8") as written:
        started = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "benchmarks.stopwatch", str(noted), str(steps), *program],
            cwd=REPOSITORY,
            env=environment,
            stdout=written,
            stderr=subprocess.STDOUT,
            check=False,
        )
    found = json.loads(noted.read_text(encoding="utf-8")) if noted.is_file() else {"steps": []}
    if len(found["steps"]) != steps:
        raise RunFailed(f"{side}: {log.read_text(encoding='utf-8', errors='replace')[-TOLD_OF_A_FAILURE:]}")
    return timing_of(found, started)


def timing_of(found: Mapping[str, Any], started: float) -> Timing:
    """Of what the stopwatch noted: when each step was done, and how much processor time had been used."""
    durations = counted_steps(found["steps"])
    return Timing(
        steps_a_second=round(1 / median(durations), 3),
        first_step_seconds=round(found["steps"][0] - started, 2),
        peak_mib=round(found["peak_bytes"] / 2**20, 1),
        mean_step_seconds=round(fmean(durations), 4),
        processor_seconds=round(median(counted_steps(found["processor"])), 4),
    )


def counted_steps(ends: Sequence[float]) -> list[float]:
    """How long each step took, without the first few."""
    return [after - before for before, after in pairwise(ends[WARM_UP - 1 :])]


def best_of(timings: Sequence[Timing]) -> Timing:
    """Of several runs the least disturbed, figure by figure: other programs can only slow one down."""
    return Timing(
        steps_a_second=max(one.steps_a_second for one in timings),
        first_step_seconds=min(one.first_step_seconds for one in timings),
        peak_mib=min(one.peak_mib for one in timings),
        mean_step_seconds=min(one.mean_step_seconds for one in timings),
        processor_seconds=min(one.processor_seconds for one in timings),
    )


def record_of(timings: Sequence[Timing]) -> dict[str, Any]:
    return {"best": asdict(best_of(timings)), "runs": [asdict(one) for one in timings]}
