"""diffusers' own pipeline in a process: reads requests from standard input, one list of them a line, and answers each.

`python -m benchmarks.generate_peer '{"base": DIRECTORY, "keep": true, "subjects": {NAME: [METHOD, DIRECTORY]}}'`
answers as the handler of an endpoint does, with a PNG file in base64 for each request.
Written as diffusers' documentation shows it, and importing nothing of ours: its start is timed.
"""

from __future__ import annotations

import base64
import gc
import io
import json
import os
import sys
import time
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE

# As diffusers calls what our contract names.
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "lms": "LMSDiscreteScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

Subjects = dict[str, tuple[str, str]]  # name -> method, directory
Pipeline = Any


def open_pipeline(directory: str) -> Pipeline:
    dtype = torch.float16 if DEVICE == "cuda" else torch.float32
    pipeline: Pipeline = StableDiffusionPipeline.from_pretrained(  # type: ignore[no-untyped-call]
        directory, safety_checker=None, dtype=dtype
    )
    pipeline.to(DEVICE)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class Keeper:
    """What was loaded once stays."""

    def __init__(self, base: str, subjects: Subjects) -> None:
        self._base = open_pipeline(base)
        self._subjects = subjects
        self._full: dict[str, Pipeline] = {}
        self._adapters: set[str] = set()
        self._worn = False

    def select(self, name: str | None) -> Pipeline:
        if name is None:
            if self._worn:
                self._base.disable_lora()
            self._worn = False
            return self._base
        method, directory = self._subjects[name]
        if method == "full":
            if name not in self._full:
                self._full[name] = open_pipeline(directory)
            return self._full[name]
        if name not in self._adapters:
            self._base.load_lora_weights(directory, weight_name=LORA_WEIGHT_NAME_SAFE, adapter_name=name)
            self._adapters.add(name)
        if not self._worn:
            self._base.enable_lora()
        self._base.set_adapters(name)
        self._worn = True
        return self._base


class Reloader:
    """One model at a time."""

    def __init__(self, base: str, subjects: Subjects) -> None:
        self._directory = base
        self._subjects = subjects
        self._name: str | None = None
        self._pipeline = open_pipeline(base)

    def select(self, name: str | None) -> Pipeline:
        if name == self._name:
            return self._pipeline
        self._pipeline, self._name = None, name
        gc.collect()
        method, directory = self._subjects[name] if name is not None else ("full", self._directory)
        self._pipeline = open_pipeline(directory if method == "full" else self._directory)
        if method == "lora":
            self._pipeline.load_lora_weights(directory, weight_name=LORA_WEIGHT_NAME_SAFE)
        return self._pipeline


def draw(pipeline: Pipeline, request: dict[str, Any]) -> str:
    """A PNG file in base64."""
    sampling = request["sampling"]
    scheduler = getattr(diffusers, SCHEDULERS[sampling["scheduler"]])
    if type(pipeline.scheduler) is not scheduler:
        pipeline.scheduler = scheduler.from_pretrained(pipeline.name_or_path, subfolder="scheduler")
    picture = pipeline(
        request["prompt"],
        width=request["side"],
        height=request["side"],
        num_inference_steps=sampling["num_inference_steps"],
        guidance_scale=sampling["guidance_scale"],
        generator=torch.Generator("cpu").manual_seed(request["seed"]),
    ).images[0]
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def timed_select(models: Keeper | Reloader, name: str | None) -> tuple[Pipeline, float]:
    started = time.monotonic()
    pipeline = models.select(name)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return pipeline, time.monotonic() - started


def main() -> None:
    asked = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever the libraries print is no answer
    models = (Keeper if asked["keep"] else Reloader)(asked["base"], asked["subjects"])
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        pictures, seconds = [], []
        for request in json.loads(line):
            pipeline, taken = timed_select(models, request["subject"])
            seconds.append(taken)
            pictures.append(draw(pipeline, request))
        peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else 0
        answer = {"pictures": pictures, "select_seconds": seconds, "gpu_peak_bytes": peak}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
