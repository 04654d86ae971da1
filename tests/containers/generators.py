"""A generator of the tests, its subjects, and what is asked of it. CPU, tiny weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from contracts.errors import DreamdropError
from contracts.generation import InferencePayload
from inference_container.generator import Drawing, Generator
from inference_container.networks import load_base_model
from inference_container.subject_models import MemoryLimits, SubjectModels
from inference_container.subjects import SubjectStore
from tests.containers.inference_parts import BUCKET

CPU = torch.device("cpu")
VERSION = "0123456789ab-1"
ROOMY = MemoryLimits(subjects=8, device_bytes=10**9, memory_bytes=10**9)
DOG = "a photo of sks dog"


def make_generator(
    base: Path, s3: Any, cache: Path, limits: MemoryLimits = ROOMY, disk_bytes: int = 10**9, most_at_once: int = 1
) -> Generator:
    store = SubjectStore(s3, BUCKET, cache, disk_bytes)
    return Generator(SubjectModels(load_base_model(base, CPU), store, limits), most_at_once, read_object=store.read)


def draw(generator: Generator, **payload: Any) -> Drawing:
    named = {"prompt": DOG, "num_inference_steps": 3, "seed": 7, **payload}
    if "subject" in named:
        named.setdefault("version", VERSION)
    [drawn] = generator.draw([InferencePayload(**named)])
    if isinstance(drawn, DreamdropError):
        raise drawn
    return drawn


def picture(generator: Generator, **payload: Any) -> np.ndarray:
    return draw(generator, **payload).pictures[0]
