"""What can be asked of a generator and what it answers: JumpStart's text-to-image payload, and ours.

Source of the JumpStart part: its notebook `sm-jumpstart_stable_diffusion_text_to_image`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.errors import ErrorReport
from contracts.storage import MAX_SUBJECT_LENGTH, SOURCE_PATTERN, SUBJECT_PATTERN, VERSION_PATTERN
from contracts.training import MAX_PROMPT_CHARACTERS, Prompt

MAX_IMAGES_PER_REQUEST = 8
MAX_SIDE = 1024
MAX_UPSCALE = 4
MAX_UPSCALED_SIDE = 2048
MAX_MIXED_SUBJECTS = 3  # besides the first
MAX_LORA_SCALE = 2.0
MAX_SOURCE_BYTES = 20 * 1024 * 1024
KEEP_SOURCES_DAYS = 7
DEFAULT_STRENGTH = 0.75
WEIGHED_PART = re.compile(r"\(([^()]*[^\W\d_][^()]*):([0-9]{0,2}\.?[0-9]{1,4})\)")  # of a prompt: words, weight
CONCURRENT_INVOCATIONS = 8  # of one instance: those of a subject that wait together are drawn together
REQUEST_TTL_SECONDS = 6 * 3600  # RequestTTLSeconds of InvokeEndpointAsync: its longest
INVOCATION_TIMEOUT_SECONDS = 3600  # InvocationTimeoutSeconds: its longest, since it counts the wait behind others too
DRAWING_TIMEOUT_SECONDS = 900  # of one batch in the container
MAX_PAYLOAD_BYTES = 128_000  # inline Body of InvokeEndpointAsync
KEEP_GENERATIONS_DAYS = 30

Scheduler = Literal["ddim", "pndm", "lms", "dpmsolver++", "euler", "euler_a", "unipc"]
PictureFormat = Literal["png", "jpeg", "webp"]
SubjectName = Annotated[str, Field(pattern=SUBJECT_PATTERN, max_length=MAX_SUBJECT_LENGTH)]
Version = Annotated[str, Field(pattern=VERSION_PATTERN)]
LoraScale = Annotated[float, Field(ge=0, le=MAX_LORA_SCALE)]
NegativePrompt = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)]


@dataclass(frozen=True)
class Sampling:
    """How the diffusion process is run. The defaults are the contract's."""

    num_inference_steps: int = 30
    guidance_scale: float = 7.5
    scheduler: Scheduler = "dpmsolver++"


# None leaves a field open: then the base model's default serves, else the contract's, which is what the schema shows.
_OTHERWISE = "default: the base model's, else"
Steps = Annotated[
    int | None,
    Field(
        ge=1,
        le=200,
        description=f"More is slower and finer; {_OTHERWISE} {Sampling.num_inference_steps}.",
        json_schema_extra={"default": Sampling.num_inference_steps},
    ),
]
Guidance = Annotated[
    float | None,
    Field(
        ge=-50,
        le=50,
        description=f"How strictly to follow the prompt, 1 or less: off; {_OTHERWISE} {Sampling.guidance_scale}.",
        json_schema_extra={"default": Sampling.guidance_scale},
    ),
]
Sampler = Annotated[
    Scheduler | None,
    Field(
        description=f"Sampler of the diffusion process; {_OTHERWISE} {Sampling.scheduler}.",
        json_schema_extra={"default": Sampling.scheduler},
    ),
]


class GenerationDefaults(BaseModel):
    """generation_defaults.json of a base model: what serves it best, for what a request leaves open."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_inference_steps: Steps = None
    guidance_scale: Guidance = None
    scheduler: Sampler = None


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_field_is_a_truth_value(cls, document: Any) -> Any:
        """Python would take true for 1."""
        if isinstance(document, dict):
            for name in cls.model_fields:  # others are refused by name later, and may not even be valid text
                if isinstance(document.get(name), bool):
                    raise ValueError(f"{name}: must not be true or false")
        return document


class MixedSubject(_Strict):
    """Another subject in the same picture."""

    subject: SubjectName
    version: Version | None = Field(None, description="Default: the promoted one.")
    lora_scale: LoraScale = 1.0


class PictureRequest(_Strict):
    """JumpStart's fields, and ours. Unknown fields are refused, so that a typing mistake cannot be ignored."""

    prompt: Prompt | Annotated[list[Prompt], Field(max_length=MAX_IMAGES_PER_REQUEST)] = Field(
        description="What to draw; a list draws each. Read to its end, beyond 77 tokens too; "
        "(red scarf:1.4) weighs a part more, below 1 less."
    )
    negative_prompt: (
        NegativePrompt | Annotated[list[NegativePrompt], Field(max_length=MAX_IMAGES_PER_REQUEST)] | None
    ) = Field(None, description="What to avoid; a list of the same length when prompt is a list.")
    width: int | None = Field(None, ge=32, le=MAX_SIDE, multiple_of=8, description="Pixels; default: as trained.")
    height: int | None = Field(None, ge=32, le=MAX_SIDE, multiple_of=8, description="Pixels; default: as trained.")
    num_images_per_prompt: int = Field(1, ge=1, le=MAX_IMAGES_PER_REQUEST, description="Pictures of each prompt.")
    num_inference_steps: Steps = None
    guidance_scale: Guidance = None
    seed: int | None = Field(None, ge=0, lt=2**32, description="Same seed, same picture. Picked when absent.")
    scheduler: Sampler = None
    lora_scale: LoraScale = Field(1.0, description="How strongly a subject of method lora shows.")
    mix: list[MixedSubject] = Field(
        [],
        max_length=MAX_MIXED_SUBJECTS,
        description="Further subjects in the same picture; all of method lora and of one base model.",
    )
    source_image: str | None = Field(
        None, pattern=SOURCE_PATTERN, description="A picture to start from; see POST /v1/sources."
    )
    strength: float | None = Field(
        None,
        gt=0,
        le=1,
        description=f"How much of the source image is redrawn; default {DEFAULT_STRENGTH}.",
        json_schema_extra={"default": DEFAULT_STRENGTH},
    )
    upscale: int = Field(
        1, ge=1, le=MAX_UPSCALE, description="Enlarges the picture so many times and redraws its details."
    )

    @model_validator(mode="after")
    def _source_and_sizes_agree(self) -> Self:
        if self.strength is not None and self.source_image is None:
            raise ValueError("strength: has no meaning without source_image")
        for name in ("width", "height"):
            side = getattr(self, name)
            if side is not None and side * self.upscale > MAX_UPSCALED_SIDE:
                raise ValueError(f"upscale: {name} would be {side * self.upscale}, the most is {MAX_UPSCALED_SIDE}")
        return self

    @model_validator(mode="after")
    def _lists_agree(self) -> Self:
        if isinstance(self.prompt, list):
            if not self.prompt:
                raise ValueError("prompt: the list is empty")
            if isinstance(self.negative_prompt, str):
                raise ValueError("negative_prompt: must be a list when prompt is a list")
            if self.negative_prompt is not None and len(self.negative_prompt) != len(self.prompt):
                raise ValueError("negative_prompt: must have as many entries as prompt")
        elif isinstance(self.negative_prompt, list):
            raise ValueError("negative_prompt: must be text when prompt is text")
        if self.images > MAX_IMAGES_PER_REQUEST:
            raise ValueError(
                f"num_images_per_prompt: at most {MAX_IMAGES_PER_REQUEST} pictures a request, not {self.images}"
            )
        return self

    @property
    def prompts(self) -> list[str]:
        return self.prompt if isinstance(self.prompt, list) else [self.prompt]

    @property
    def images(self) -> int:
        """Pictures asked for: prompts x num_images_per_prompt, prompt-major."""
        return len(self.prompts) * self.num_images_per_prompt

    def sampling(self, defaults: GenerationDefaults) -> Sampling:
        """What the request names wins, then the base model's default, then the contract's."""
        named = self.model_dump(include=set(GenerationDefaults.model_fields), exclude_none=True)
        return Sampling(**{**defaults.model_dump(exclude_none=True), **named})


def _check_mixture(subject: str | None, mix: list[MixedSubject]) -> None:
    named = [subject, *(other.subject for other in mix)]
    twice = [name for name in dict.fromkeys(named) if name is not None and named.count(name) > 1]
    if twice:
        raise ValueError(f"mix: {twice[0]} is in the picture twice")


class GenerationRequest(PictureRequest):
    """Body of POST /v1/generations."""

    subject: SubjectName = Field(description="Whom to draw; see GET /v1/subjects.")
    version: Version | None = Field(None, description="A published version of the subject; default: the promoted one.")
    format: PictureFormat = Field("png", description="Of the files: png and webp without loss, jpeg smaller.")

    @model_validator(mode="after")
    def _nobody_is_mixed_twice(self) -> Self:
        _check_mixture(self.subject, self.mix)
        return self


class InferencePayload(PictureRequest):
    """Body of /invocations. Without a subject the base model (or the container's only subject) draws."""

    subject: SubjectName | None = None
    version: Version | None = Field(None, description="Default: the promoted one.")

    @model_validator(mode="after")
    def _all_belongs_to_a_subject(self) -> Self:
        if self.subject is None and (self.version is not None or self.mix):
            raise ValueError("subject: is missing beside version or mix")
        _check_mixture(self.subject, self.mix)
        return self


class InferenceTimings(BaseModel):
    load_ms: int = Field(description="Fetching and loading the subject; 0 when it was warm.")
    compute_ms: int = Field(description="Denoising and decoding.")


class InferenceAnswer(BaseModel):
    """Answer of /invocations for application/json;jpeg, ;png and ;webp (base64), JSON requests."""

    generated_images: list[str]
    prompt: str | list[str]
    seeds: list[int] = Field(description="One a picture: asking for that seed alone gives the same picture.")
    timings: InferenceTimings
    subjects: list[str] = Field([], description="Who was drawn: subject@version of each.")


class PictureSource(BaseModel):
    """Answer of POST /v1/sources: where to put a picture that others are to start from."""

    source_image: str = Field(description="What to name in the field source_image of a request.")
    upload_url: str = Field(description="Presigned; PUT the picture's bytes there: PNG, JPEG or WebP.")
    max_bytes: int = MAX_SOURCE_BYTES
    kept_days: int = KEEP_SOURCES_DAYS


GenerationStatus = Literal["queued", "succeeded", "failed", "expired", "cancelled"]
MOST_COUNTED_POSITIONS = 100


class Picture(BaseModel):
    url: str = Field(description="Presigned; valid for the deployment's URL lifetime.")
    prompt: str
    seed: int


class GenerationTimings(BaseModel):
    queued_ms: int | None = Field(None, description="From acceptance to the start of the work, waking included.")
    load_ms: int | None = None
    compute_ms: int | None = None


class Generation(BaseModel):
    """Answer of POST /v1/generations and GET /v1/generations/{id}."""

    id: str
    status: GenerationStatus
    subject: str
    version: str
    request: GenerationRequest
    created_at: datetime
    finished_at: datetime | None = None
    images: list[Picture] = []
    queue_position: int | None = Field(
        None,
        description="While queued: how many older requests the same endpoint has not answered yet, those that it works "
        f"on included; {MOST_COUNTED_POSITIONS} stands for more too.",
    )
    timings: GenerationTimings = GenerationTimings()
    error: ErrorReport | None = None
