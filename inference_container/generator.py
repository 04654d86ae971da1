"""Requests to pictures: models stay loaded, requests of one kind are drawn together. No HTTP, no SageMaker."""

from __future__ import annotations

import gc
import logging
import secrets
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from contracts.errors import DreamdropError, GenerationFailed, InvalidRequest, OutOfMemory
from contracts.generation import (
    DEFAULT_STRENGTH,
    MAX_SOURCE_BYTES,
    MAX_UPSCALED_SIDE,
    InferencePayload,
    Sampling,
)
from contracts.policy import check_prompts
from inference_container.denoising import Conditions, decode, denoise, encode_source, new_picture
from inference_container.networks import Networks, is_out_of_memory, outlasts_its_cause
from inference_container.pictures import (
    Pixels,
    enlarged,
    fitted,
    marked,
    read_source,
    size_like,
    to_pixels,
    to_tensor,
)
from inference_container.prompts import as_long_as, embed
from inference_container.shelf import Shelf
from inference_container.subject_models import SelectedModel, Share, SubjectModels

UPSCALE_STRENGTH = 0.15  # as much is redrawn as the enlarging has blurred; more draws other things
KEPT_EMBEDDINGS_BYTES = 64 * 2**20
NO_PROMPT = ""

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
ReadObject = Callable[[str, int], bytes | None]  # a key of the data bucket and the most bytes; None: there is none


@dataclass(frozen=True)
class Settings:
    """Of a deployment; off by default."""

    blocked_words: Sequence[str] = ()
    watermark: str = ""


@dataclass(frozen=True)
class Drawing:
    pictures: list[Pixels]  # prompt-major
    seeds: list[int]
    origins: list[dict[str, object]]  # how each picture came about
    load_ms: int
    compute_ms: int
    subjects: tuple[str, ...] = ()  # subject@version of each that was drawn


@dataclass(eq=False)
class _Picture:
    """One of the pictures of one request."""

    prompt: str
    negative: str
    seed: int
    prompt_embeddings: Tensor  # (1, tokens, width)
    negative_embeddings: Tensor | None  # the same length; None: not guided
    guidance: float
    source: Tensor | None  # (1, 3, H, W)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator("cpu"))

    def conditions(self) -> Conditions:
        return _conditions([self])


class Generator:
    def __init__(
        self,
        models: SubjectModels,
        most_at_once: int,
        settings: Settings = Settings(),
        read_object: ReadObject | None = None,
    ) -> None:
        """most_at_once: pictures in one pass through the networks."""
        self.worn_out = False  # then another process is to go on
        self._models = models
        self.most_at_once = most_at_once
        self._settings = settings
        self._read_object = read_object
        self._embedded: Shelf[Tensor] = Shelf(KEPT_EMBEDDINGS_BYTES)
        self._fitting: dict[Hashable, int] = {}  # how many pictures of a shape were the most that memory allowed
        models.on_forgotten = self._embedded.clear

    def draw(self, batch: Sequence[InferencePayload]) -> list[Drawing | DreamdropError]:
        """One answer for each. They are of one kind (batching.py)."""
        answers: list[Drawing | DreamdropError | None] = [self._refusal(payload) for payload in batch]
        wanted = [index for index, answer in enumerate(answers) if answer is None]
        if wanted:
            drawn = self._draw_all([batch[index] for index in wanted])
            for index, drawing in zip(wanted, drawn, strict=True):
                answers[index] = drawing
        return [answer for answer in answers if answer is not None]

    def drop_deleted(self) -> None:
        """Subjects that were deleted leave memory and disk. Raises HostingFailed when the bucket cannot be read."""
        self._models.drop_deleted()

    def _refusal(self, payload: InferencePayload) -> DreamdropError | None:
        try:
            check_prompts(payload.prompts, self._settings.blocked_words)
        except DreamdropError as error:
            return error
        return None

    def _draw_all(self, batch: Sequence[InferencePayload], *, again: bool = True) -> list[Drawing | DreamdropError]:
        try:
            with torch.inference_mode():
                return self._draw_kind(batch)
        except DreamdropError as error:
            return [error] * len(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            _log.warning("out of memory: %s", error)
            self.worn_out = self.worn_out or outlasts_its_cause(error)
        # Outside the except block: the traceback would keep the tensors alive.
        self._models.release()
        self._fitting.clear()
        if again and not self.worn_out:
            return self._draw_all(batch, again=False)
        return [_no_room(payload) for payload in batch]

    def _draw_kind(self, batch: Sequence[InferencePayload]) -> list[Drawing | DreamdropError]:
        model = self._models.select(_shares(batch[0]), batch[0].lora_scale)
        sampling = batch[0].sampling(self._models.generation_defaults)
        started = time.monotonic()
        requests: list[list[_Picture] | DreamdropError] = [
            _caught(partial(self._pictures_of, payload, model)) for payload in batch
        ]
        width, height = self._size(batch[0], requests, model)
        if max(width, height) * batch[0].upscale > MAX_UPSCALED_SIDE:
            raise InvalidRequest(
                f"upscale: {width} x {height} pixels times {batch[0].upscale} are too many; the most is "
                f"{MAX_UPSCALED_SIDE} a side."
            )
        found = [one for request in requests if isinstance(request, list) for one in request]
        pixels: dict[_Picture, Pixels | DreamdropError] = {}
        for group in _of_equal_length(found):
            pixels |= self._draw_group(group, model, sampling, width, height, batch[0])
        compute_ms = round((time.monotonic() - started) * 1000)
        return [
            request
            if isinstance(request, DreamdropError)
            else self._drawing(request, pixels, model, sampling, compute_ms)
            for request in requests
        ]

    def _drawing(
        self,
        request: Sequence[_Picture],
        pixels: dict[_Picture, Pixels | DreamdropError],
        model: SelectedModel,
        sampling: Sampling,
        compute_ms: int,
    ) -> Drawing | DreamdropError:
        drawn: list[Pixels] = []
        for one in request:
            found = pixels[one]
            if isinstance(found, DreamdropError):
                return found
            drawn.append(marked(found, self._settings.watermark) if self._settings.watermark else found)
        origins = [self._origin(one, model, sampling) for one in request]
        return Drawing(drawn, [one.seed for one in request], origins, model.load_ms, compute_ms, model.drawn)

    def _origin(self, picture: _Picture, model: SelectedModel, sampling: Sampling) -> dict[str, object]:
        return {
            "prompt": picture.prompt,
            "negative_prompt": picture.negative,
            "seed": picture.seed,
            "subjects": list(model.drawn),
            "base_model": self._models.base_model,
            "scheduler": sampling.scheduler,
            "num_inference_steps": sampling.num_inference_steps,
            "guidance_scale": picture.guidance,
            "generator": "dreamdrop",
        }

    # ---- what is asked for

    def _pictures_of(self, payload: InferencePayload, model: SelectedModel) -> list[_Picture]:
        """Prompt-major. Raises InvalidRequest."""
        guidance = payload.sampling(self._models.generation_defaults).guidance_scale
        first = secrets.randbelow(2**32) if payload.seed is None else payload.seed
        source = self._source(payload, model)
        negative = payload.negative_prompt
        negatives = negative if isinstance(negative, list) else [negative] * len(payload.prompts)
        pictures: list[_Picture] = []
        for prompt, unwanted in zip(payload.prompts, negatives, strict=True):
            embeddings, unwanted_embeddings = self._embeddings(model, prompt, unwanted or NO_PROMPT, guidance > 1)
            for _ in range(payload.num_images_per_prompt):
                seed = (first + len(pictures)) % 2**32
                pictures.append(
                    _Picture(prompt, unwanted or NO_PROMPT, seed, embeddings, unwanted_embeddings, guidance, source)
                )
        return pictures

    def _embeddings(
        self, model: SelectedModel, prompt: str, negative: str, guided: bool
    ) -> tuple[Tensor, Tensor | None]:
        embeddings = self._embed(model, prompt)
        if not guided:
            return embeddings, None
        unwanted, empty = self._embed(model, negative), self._embed(model, NO_PROMPT)
        return as_long_as(embeddings, unwanted, empty), as_long_as(unwanted, embeddings, empty)

    def _embed(self, model: SelectedModel, prompt: str) -> Tensor:
        key = f"{model.key} {prompt}"
        found = self._embedded.get(key)
        if found is None:
            found = embed(model.networks, prompt)
            self._embedded.put(key, found, found.nbytes)
        return found

    def _source(self, payload: InferencePayload, model: SelectedModel) -> Tensor | None:
        if payload.source_image is None:
            return None
        if self._read_object is None:
            raise InvalidRequest("source_image: this endpoint was started without DATA_BUCKET.")
        content = self._read_object(payload.source_image, MAX_SOURCE_BYTES)
        if content is None:
            raise InvalidRequest("source_image: there is no such picture.", "Upload it first; see POST /v1/sources.")
        source = read_source(content)
        width, height = _size_of(payload, model, source)
        return fitted(source, width, height)

    def _size(
        self, payload: InferencePayload, requests: Sequence[list[_Picture] | DreamdropError], model: SelectedModel
    ) -> tuple[int, int]:
        """(width, height), the same for the whole batch."""
        sources = [one.source for request in requests if isinstance(request, list) for one in request]
        source = next((found for found in sources if found is not None), None)
        if source is not None:
            return source.shape[3], source.shape[2]
        return payload.width or model.resolution, payload.height or model.resolution

    # ---- drawing

    def _draw_group(
        self,
        group: Sequence[_Picture],
        model: SelectedModel,
        sampling: Sampling,
        width: int,
        height: int,
        payload: InferencePayload,
    ) -> dict[_Picture, Pixels | DreamdropError]:
        """As many in one pass as memory allows: out of memory halves their number, down to one."""
        drawn: dict[_Picture, Pixels | DreamdropError] = {}
        waiting = list(group)
        shape = (width, height, payload.upscale, group[0].negative_embeddings is None)
        at_once = self._fitting.get(shape, self.most_at_once)
        while waiting:
            part = waiting[:at_once]
            try:
                drawn |= _draw_part(part, model.networks, sampling, width, height, payload)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or len(part) == 1:
                    raise
                at_once = self._fitting[shape] = len(part) // 2
            else:
                waiting = waiting[len(part) :]
                continue
            gc.collect()  # outside the except block, where the traceback would keep the tensors
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            _log.warning("%d pictures at once do not fit into memory; trying %d", len(part), at_once)
        return drawn


def _draw_part(
    part: Sequence[_Picture],
    networks: Networks,
    sampling: Sampling,
    width: int,
    height: int,
    payload: InferencePayload,
) -> dict[_Picture, Pixels | DreamdropError]:
    for one in part:
        one.generator.manual_seed(one.seed)
    generators = [one.generator for one in part]
    strength = None
    if payload.source_image is None:
        start = [new_picture(networks, height, width, generator) for generator in generators]
    else:
        strength = payload.strength or DEFAULT_STRENGTH
        start = [encode_source(networks, one.source, one.generator) for one in part if one.source is not None]
    latents = denoise(networks, sampling, _conditions(part), torch.cat(start), generators, strength)
    found: dict[_Picture, Pixels | DreamdropError] = {}
    for one, latent in zip(part, torch.split(latents, 1), strict=True):
        found[one] = _finished(one, latent, networks, sampling, payload.upscale)
    return found


def _finished(
    one: _Picture, latent: Tensor, networks: Networks, sampling: Sampling, upscale: int
) -> Pixels | DreamdropError:
    picture = decode(networks, latent)
    if upscale > 1 and bool(picture.isfinite().all()):
        large = to_tensor(enlarged(to_pixels(picture), upscale))
        start = encode_source(networks, large, one.generator)
        again = denoise(networks, sampling, one.conditions(), start, [one.generator], UPSCALE_STRENGTH)
        picture = decode(networks, again)
    if not bool(picture.isfinite().all()):
        return GenerationFailed(f"The picture of seed {one.seed} is not-a-number.", "Use another scheduler or size.")
    return to_pixels(picture)


def _conditions(part: Sequence[_Picture]) -> Conditions:
    prompts = torch.cat([one.prompt_embeddings for one in part])
    negatives = [one.negative_embeddings for one in part if one.negative_embeddings is not None]
    guidance = torch.tensor([one.guidance for one in part], dtype=prompts.dtype, device=prompts.device)
    return Conditions(prompts, torch.cat(negatives) if negatives else None, guidance.reshape(-1, 1, 1, 1))


def _of_equal_length(pictures: Sequence[_Picture]) -> Iterator[list[_Picture]]:
    """Prompts in one tensor are of one length, and filling up the shorter ones would change their pictures."""
    lengths = dict.fromkeys(one.prompt_embeddings.shape[1] for one in pictures)
    for length in lengths:
        yield [one for one in pictures if one.prompt_embeddings.shape[1] == length]


def _shares(payload: InferencePayload) -> list[Share]:
    if payload.subject is None:
        return []
    further = [Share(other.subject, other.version, other.lora_scale) for other in payload.mix]
    return [Share(payload.subject, payload.version, payload.lora_scale), *further]


def _size_of(payload: InferencePayload, model: SelectedModel, source: Image.Image) -> tuple[int, int]:
    width, height = size_like(source, model.resolution)
    return payload.width or width, payload.height or height


def _caught(work: Callable[[], Answer]) -> Answer | DreamdropError:
    try:
        return work()
    except DreamdropError as error:
        return error


def _no_room(payload: InferencePayload) -> OutOfMemory:
    return OutOfMemory(
        f"{payload.images} picture(s) of this size do not fit into memory.",
        "Ask for smaller pictures, or host on an instance with more memory.",
    )
