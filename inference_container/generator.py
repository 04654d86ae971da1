"""Prompts to pictures: loads once, draws many. No HTTP, no SageMaker."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from contracts.errors import GenerationFailed, OutOfMemory
from contracts.generation import InferencePayload, PictureRequest, Sampling
from inference_container.pipelines import Pipeline, is_out_of_memory
from inference_container.schedulers import make_scheduler
from inference_container.subject_models import SelectedModel, SubjectModels

Pixels: TypeAlias = NDArray[np.uint8]  # height x width x 3, RGB
_Embeddings: TypeAlias = tuple[torch.Tensor, torch.Tensor | None]  # prompt, negative prompt


@dataclass(frozen=True)
class Drawing:
    pictures: list[Pixels]  # prompt-major
    seeds: list[int]
    load_ms: int
    compute_ms: int


class Generator:
    def __init__(self, models: SubjectModels) -> None:
        self._models = models

    def draw(self, payload: InferencePayload) -> Drawing:
        """Raises UnknownSubject, HostingFailed, OutOfMemory or GenerationFailed."""
        try:
            return self._draw(payload)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failure = OutOfMemory(
                f"{payload.images} picture(s) of this size do not fit into memory.",
                "Ask for smaller pictures, or host on an instance with more memory.",
            )
        # Outside the except block: the traceback would keep the tensors alive.
        self._models.release()
        raise failure

    def _draw(self, payload: InferencePayload) -> Drawing:
        model = self._models.select(payload.subject, payload.version)
        sampling = payload.sampling(self._models.generation_defaults)
        started = time.monotonic()
        first = secrets.randbelow(2**32) if payload.seed is None else payload.seed
        seeds = [(first + index) % 2**32 for index in range(payload.images)]
        pictures: list[Pixels] = []
        with torch.inference_mode():
            for prompt, negative in _prompt_pairs(payload):
                embeddings = _encode(model.pipeline, prompt, negative, sampling)
                for _ in range(payload.num_images_per_prompt):
                    pictures.append(_draw_one(model, payload, sampling, embeddings, seeds[len(pictures)]))
        compute_ms = round((time.monotonic() - started) * 1000)
        return Drawing(pictures, seeds, model.load_ms, compute_ms)


def _prompt_pairs(request: PictureRequest) -> list[tuple[str, str | None]]:
    negative = request.negative_prompt
    negatives = negative if isinstance(negative, list) else [negative] * len(request.prompts)
    return list(zip(request.prompts, negatives, strict=True))


def _encode(pipeline: Pipeline, prompt: str, negative: str | None, sampling: Sampling) -> _Embeddings:
    """Once a prompt, however many pictures of it are asked for."""
    prompt_embeddings, negative_embeddings = pipeline.encode_prompt(
        prompt, pipeline.device, 1, sampling.guidance_scale > 1, negative
    )
    return prompt_embeddings, negative_embeddings


def _draw_one(
    model: SelectedModel, request: PictureRequest, sampling: Sampling, embeddings: _Embeddings, seed: int
) -> Pixels:
    """Alone, never in a batch: a batch changes the last bits, and a seed promises the same picture again."""
    pipeline = model.pipeline
    trained_with = pipeline.scheduler
    pipeline.scheduler = make_scheduler(sampling.scheduler, trained_with.config)
    prompt_embeddings, negative_embeddings = embeddings
    try:
        image = pipeline(
            prompt_embeds=prompt_embeddings,
            negative_prompt_embeds=negative_embeddings,
            width=request.width or model.resolution,
            height=request.height or model.resolution,
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
        ).images[0]
    finally:
        pipeline.scheduler = trained_with
    if not np.isfinite(image).all():
        raise GenerationFailed(f"The picture of seed {seed} is not-a-number.", "Use another scheduler or size.")
    pixels: Pixels = (image * 255).round().astype(np.uint8)
    return pixels
