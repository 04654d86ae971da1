"""What cannot be seen from outside our server: how long selecting a subject takes, and how full the GPU was.

`python -m benchmarks.generate_inside OUT.json '{"base": DIRECTORY, "cache": DIRECTORY, "subjects": {METHOD: [NAME]},
"rounds": 3, "payloads": [PAYLOAD]}'`, in an environment in which boto3 finds the bucket.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import boto3
import torch

from benchmarks.generate_subjects import BUCKET, VERSION
from contracts.generation import InferencePayload
from inference_container.generator import Generator
from inference_container.networks import load_base_model, pick_device
from inference_container.subject_models import MemoryLimits, Share, SubjectModels
from inference_container.subjects import SubjectStore

ROOMY = MemoryLimits(subjects=64, device_bytes=2**40, memory_bytes=2**40)
DISK_BYTES = 2**40


def timed_select(models: SubjectModels, name: str) -> float:
    started = time.monotonic()
    with torch.inference_mode():  # as the generator does
        models.select([Share(name, VERSION, 1.0)])
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic() - started


def select_times(
    models: SubjectModels, store: SubjectStore, names: Sequence[str], rounds: int
) -> dict[str, list[float]]:
    """cold: the files are on the disk already. warm: another one is worn, and this one has been worn before."""
    for name in names:
        store.fetch(store.manifest(name, VERSION))
    cold = [timed_select(models, name) for name in names]
    return {"cold": cold, "warm": [timed_select(models, name) for _ in range(rounds) for name in names]}


def gpu_peaks(generator: Generator, payloads: Sequence[InferencePayload]) -> list[int]:
    """Bytes: for one picture, and for all at once. Nothing without a GPU."""
    if not torch.cuda.is_available():
        return []
    peaks = []
    for batch in (payloads[:1], payloads):
        generator.draw(batch)
        peaks.append(torch.cuda.max_memory_allocated())
    return peaks


def main() -> None:
    out, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
    payloads = [InferencePayload.model_validate(payload) for payload in asked["payloads"]]
    store = SubjectStore(boto3.client("s3"), BUCKET, Path(asked["cache"]), DISK_BYTES)
    models = SubjectModels(load_base_model(Path(asked["base"]), pick_device()), store, ROOMY)
    found = {
        "gpu_peak_bytes": gpu_peaks(Generator(models, most_at_once=len(payloads)), payloads),
        "select": {
            method: select_times(models, store, names, asked["rounds"]) for method, names in asked["subjects"].items()
        },
    }
    out.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
