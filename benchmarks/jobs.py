"""One training with the program of the training image, as a process of its own, timed from start to exit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.plan import Run
from benchmarks.records import Record
from contracts.artifact import ARTIFACT, LORA_WEIGHTS
from contracts.storage import DATASET_INFO
from toyworld.subjects import write_dataset

REPOSITORY = Path(__file__).resolve().parents[1]
TRAINED_PARTS = (LORA_WEIGHTS, "unet", "text_encoder")  # the rest of a full model is the base model's
TOLD_OF_A_FAILURE = 600  # characters


class TrainingFailed(Exception):
    """The program did not exit with 0."""


def train(run: Run, base_model: Path, folder: Path) -> Record:
    """Leaves the trained weights in folder/weights and nothing else. Raises TrainingFailed."""
    job = folder / "job"
    shutil.rmtree(job, ignore_errors=True)
    lay_out_job(job, run, base_model)
    with (job / "log.txt").open("w", encoding="utf-8") as log:
        started = time.monotonic()
        finished = subprocess.run(
            [sys.executable, "-m", "training_container", "train"],
            cwd=REPOSITORY,
            env={**os.environ, "SAGEMAKER_BASE_DIR": str(job.resolve())},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
        )
        seconds = time.monotonic() - started
    if finished.returncode:
        raise TrainingFailed(_reason(job))
    artifact = json.loads((job / "model" / ARTIFACT).read_text(encoding="utf-8"))
    _keep_weights(job / "model", folder / "weights")
    shutil.rmtree(job)
    return {
        "seconds": round(seconds, 2),
        "hyperparameters": artifact["hyperparameters"],
        "training": artifact["training"],
        "load_average": round(os.getloadavg()[0], 2),
    }


def lay_out_job(job: Path, run: Run, base_model: Path) -> None:
    """The tree that SageMaker would have prepared."""
    dataset = job / "input" / "data" / "training"
    write_dataset(run.subject, dataset)
    info = json.loads((dataset / DATASET_INFO).read_text(encoding="utf-8"))
    info["hyperparameters"] = dict(run.hyperparameters)
    (dataset / DATASET_INFO).write_text(json.dumps(info), encoding="utf-8")
    (job / "input" / "data" / "model").symlink_to(base_model.resolve())


def _keep_weights(model: Path, weights: Path) -> None:
    shutil.rmtree(weights, ignore_errors=True)
    weights.mkdir(parents=True)
    for name in TRAINED_PARTS:
        if (model / name).exists():
            shutil.move(model / name, weights / name)


def _reason(job: Path) -> str:
    failure = job / "output" / "failure"
    told = failure if failure.is_file() else job / "log.txt"
    return told.read_text(encoding="utf-8", errors="replace")[-TOLD_OF_A_FAILURE:]
