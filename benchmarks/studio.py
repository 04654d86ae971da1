"""The base model in memory, once: it draws in batches, with or without what a training has added."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image

from benchmarks.plan import Shot
from contracts.artifact import LORA_WEIGHTS
from contracts.generation import Sampling
from contracts.training import Method
from inference_container.pipelines import Pipeline, load_base_model, load_pipeline, pick_device
from inference_container.schedulers import make_scheduler


class Studio:
    def __init__(self, directory: Path) -> None:
        started = time.monotonic()
        self._base = load_base_model(directory, pick_device())
        self.load_seconds = time.monotonic() - started

    @contextmanager
    def untrained(self) -> Iterator[Pipeline]:
        yield self._base.pipeline

    @contextmanager
    def trained(self, method: Method, weights: Path) -> Iterator[Pipeline]:
        """The pipeline as that training left it; the base model is itself again afterwards."""
        pipeline = self._base.pipeline
        if method == "full":
            yield load_pipeline(self._base.directory, pipeline.device, trained=weights)
            return
        pipeline.load_lora_weights(weights, weight_name=LORA_WEIGHTS, use_safetensors=True, local_files_only=True)
        try:
            yield pipeline
        finally:
            pipeline.unload_lora_weights()


def draw(pipeline: Pipeline, shots: Sequence[Shot], sampling: Sampling) -> list[Image.Image]:
    """All in one batch, each with noise of its own."""
    trained_with = pipeline.scheduler
    pipeline.scheduler = make_scheduler(sampling.scheduler, trained_with.config)
    try:
        pictures: list[Image.Image] = pipeline(
            prompt=[shot.prompt for shot in shots],
            generator=[torch.Generator("cpu").manual_seed(shot.seed) for shot in shots],
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
        ).images
    finally:
        pipeline.scheduler = trained_with
    return pictures
