"""What is asked of our generator and of its peers, what is measured, and the bars that ours is to clear.

`pipeline` is diffusers' own StableDiffusionPipeline in one process, as a handler of an endpoint keeps it: every subject
that was drawn stays loaded, requests that wait are drawn one after the other. `classic` is the handler of an endpoint
with one model: another subject is another `from_pretrained`. Both are asked over a pipe, ours over HTTP; all answer
with PNG files and have the same sampler, steps, guidance, size, precision and seeds.

On the CPU two models: `toyworld` is what people draw with locally, `sd21/4` is Stable Diffusion 2.1-base with every
width divided by four, at 128 pixels. On a GPU it is the original's architecture at 512 pixels. Weights are random where
nothing is pretrained: no operator's time depends on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, product
from typing import Literal

from benchmarks.generate_subjects import VERSION
from benchmarks.machine import Device
from benchmarks.models import ModelName
from benchmarks.outcomes import Bar
from contracts.generation import InferencePayload, Sampling, Scheduler
from contracts.training import Method
from toyworld.vocabulary import COLOURS, KINDS

Side = Literal["ours", "pipeline", "classic"]

START, FIRST = "seconds to ready", "seconds of the first picture"
PICTURE, PROCESSOR = "seconds a picture", "processor seconds a picture"
MEMORY, MEMORY_OF_ALL = "peak memory in MiB, base model", "peak memory in MiB, all subjects"
GPU_MEMORY, GPU_MEMORY_OF_MANY = "peak GPU memory in MiB, one picture", "peak GPU memory in MiB, 8 waiting"
SHARE = "switch to a warm lora, share of a picture"
WAITING = (4, 8)
ON_OURS = (SHARE,)  # their bars are on our own figure; all others on ours divided by the pipeline's

MOST_NOISE = 0.05  # a machine that is noisier than this cannot tell who is slower
PARITY_STEPS = 10
PARITY_BAR = Bar("at most", 2)  # 255ths: both pictures have been rounded


def waiting(requests: int) -> str:
    return f"pictures a second, {requests} waiting"


def picture_of(method: Method) -> str:
    return f"seconds a picture, {method}"


def switch_to(method: Method) -> str:
    """As the asker sees it: the first request for another subject, less the usual time of one for the same."""
    return f"switch to a warm {method}, seconds"


def switch_inside(method: Method) -> str:
    """Within the process: SubjectModels.select, set_adapters, or from_pretrained."""
    return f"switch to a warm {method}, seconds inside"


def cold(method: Method) -> str:
    """As the asker sees it; ours fetches from the bucket, the others read from the disk."""
    return f"first use of a {method}, seconds"


def cold_inside(method: Method) -> str:
    """Within the process, and from the disk for all. Ours also verifies every file."""
    return f"first use of a {method} on disk, seconds inside"


@dataclass(frozen=True)
class Case:
    model: ModelName
    side: int  # pixels
    sampling: Sampling
    bars: Mapping[str, Bar]


@dataclass(frozen=True)
class Request:
    """One picture."""

    prompt: str
    seed: int
    subject: str | None  # None: the base model
    side: int  # pixels
    sampling: Sampling

    def to_payload(self) -> InferencePayload:
        return InferencePayload(
            prompt=self.prompt,
            seed=self.seed,
            subject=self.subject,
            version=VERSION if self.subject else None,
            width=self.side,
            height=self.side,
            num_inference_steps=self.sampling.num_inference_steps,
            guidance_scale=self.sampling.guidance_scale,
            scheduler=self.sampling.scheduler,
        )


class Asker:
    """Every request has another prompt and another seed, so that nothing is answered from memory."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._numbers = count()
        self._prompts = [f"a photo of a {colour} {kind}" for kind, colour in product(KINDS, COLOURS)]

    def next(self, subject: str | None = None, scheduler: Scheduler | None = None) -> Request:
        number, sampling = next(self._numbers), self._case.sampling
        if scheduler is not None:
            sampling = Sampling(sampling.num_inference_steps, sampling.guidance_scale, scheduler)
        prompt = self._prompts[number % len(self._prompts)]
        return Request(prompt, number, subject, self._case.side, sampling)


def cases_on(device: Device) -> list[Case]:
    always = {START: Bar("at most", 0.6), SHARE: Bar("at most", 0.05)}
    if device == "cuda":
        many = {waiting(1): Bar("at least", 1.5), waiting(8): Bar("at least", 2.0)}
        return [Case("sd21", 512, Sampling(num_inference_steps=25), always | many)]
    never_slower = {PICTURE: Bar("at most", 1.0)}
    return [
        Case("toyworld", 64, Sampling(num_inference_steps=25), always | never_slower),
        Case("sd21/4", 128, Sampling(num_inference_steps=10), always | never_slower),
    ]


PARITY_CASE = Case("toyworld", 64, Sampling(num_inference_steps=PARITY_STEPS), {})
