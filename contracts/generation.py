"""What can be asked of a generator and what it answers: JumpStart's text-to-image payload, and ours.

Source of the JumpStart part: its notebook `sm-jumpstart_stable_diffusion_text_to_image`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contracts.errors import ErrorReport
from contracts.storage import MAX_SUBJECT_LENGTH, SUBJECT_PATTERN, VERSION_PATTERN
from contracts.training import MAX_PROMPT_CHARACTERS

MAX_IMAGES_PER_REQUEST = 8
MAX_SIDE = 1024
REQUEST_TTL_SECONDS = 6 * 3600  # RequestTTLSeconds of InvokeEndpointAsync: its longest
INVOCATION_TIMEOUT_SECONDS = 900  # InvocationTimeoutSeconds: its default
MAX_PAYLOAD_BYTES = 128_000  # inline Body of InvokeEndpointAsync
KEEP_GENERATIONS_DAYS = 30

Scheduler = Literal["ddim", "pndm", "lms", "dpmsolver++", "euler", "euler_a", "unipc"]
Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
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
        ge=0,
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


class PictureRequest(BaseModel):
    """JumpStart's fields. Unknown fields are refused, so that a typing mistake cannot be ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompt: Prompt | list[Prompt] = Field(description="What to draw; a list draws each.")
    negative_prompt: NegativePrompt | list[NegativePrompt] | None = Field(
        None, description="What to avoid; a list of the same length when prompt is a list."
    )
    width: int | None = Field(None, ge=32, le=MAX_SIDE, multiple_of=8, description="Pixels; default: as trained.")
    height: int | None = Field(None, ge=32, le=MAX_SIDE, multiple_of=8, description="Pixels; default: as trained.")
    num_images_per_prompt: int = Field(1, ge=1, le=MAX_IMAGES_PER_REQUEST, description="Pictures of each prompt.")
    num_inference_steps: Steps = None
    guidance_scale: Guidance = None
    seed: int | None = Field(None, ge=0, lt=2**32, description="Same seed, same picture. Picked when absent.")
    scheduler: Sampler = None

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
            raise ValueError(f"at most {MAX_IMAGES_PER_REQUEST} pictures a request, not {self.images}")
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


class GenerationRequest(PictureRequest):
    """Body of POST /v1/generations."""

    subject: str = Field(
        pattern=SUBJECT_PATTERN, max_length=MAX_SUBJECT_LENGTH, description="Whom to draw; see GET /v1/subjects."
    )


class InferencePayload(PictureRequest):
    """Body of /invocations. Without a subject the base model (or the container's only subject) draws."""

    subject: str | None = Field(None, pattern=SUBJECT_PATTERN, max_length=MAX_SUBJECT_LENGTH)
    version: str | None = Field(None, pattern=VERSION_PATTERN, description="A published version of the subject.")

    @model_validator(mode="after")
    def _subject_has_a_version(self) -> Self:
        if (self.subject is None) != (self.version is None):
            raise ValueError("subject and version: give both or neither")
        return self


class InferenceTimings(BaseModel):
    load_ms: int = Field(description="Fetching and loading the subject; 0 when it was warm.")
    compute_ms: int = Field(description="Denoising and decoding.")


class InferenceAnswer(BaseModel):
    """Answer of /invocations for application/json;jpeg and application/json;png (base64), JSON requests."""

    generated_images: list[str]
    prompt: str | list[str]
    seeds: list[int] = Field(description="One a picture: asking for that seed alone gives the same picture.")
    timings: InferenceTimings


GenerationStatus = Literal["queued", "succeeded", "failed", "expired"]


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
    timings: GenerationTimings = GenerationTimings()
    error: ErrorReport | None = None
