"""What can be asked of a training: JumpStart's dataset_info.json and hyperparameters, and ours.

SageMaker hands every hyperparameter over as text, some clients JSON-encode it once more (`"\\"200\\""`), tuners send
`400.0` for an integer; all of these spellings are accepted, per value. See JumpStart's fine-tuning notebook and
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTrainingJob.html (HyperParameters).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from contracts.errors import InvalidDatasetInfo
from contracts.reading import in_words, read_json
from contracts.storage import CLASS_IMAGES, CONTINUE_FROM_PATTERN, class_image_set
from contracts.words import NOT_BLANK, own_words

MAX_PROMPT_CHARACTERS = 2000
MAX_INSTANCE_IMAGES = 200
MAX_CLASS_IMAGES = 1000
MAX_CONCEPTS = 10  # beside the subject that the dataset is named after
MAX_DATASET_INFO_BYTES = 2**20
MAX_IMAGE_BYTES = 50 * 1024 * 1024
MAX_IMAGE_PIXELS = 80_000_000
MIN_IMAGE_SIDE = 16  # pixels; less shows nothing that could be learned
MAX_ASPECT_RATIO = 16  # a strip scaled to the training resolution on its short side would fill the memory
CAPTION_EXTENSION = ".txt"  # beside a photo, under the same name
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".heic", ".heif")

# Keys that the SageMaker SDK and JumpStart put into the same map: ignored, never refused.
FOREIGN_KEY_PREFIXES = ("sagemaker_", "_tuning_objective_metric")

# What others call the same thing: the quick kit's and the Hugging Face scripts' names, and ours.
ALIASES = {
    "train_batch_size": "batch_size",
    "max_train_steps": "max_steps",
    "num_train_epochs": "epochs",
    "checkpointing_steps": "save_steps",
    "rank": "lora_rank",
}
# Those that are about the subject and not about how to train; allowed among the hyperparameters as well.
SUBJECT_KEYS = {
    "instance_prompt": "instance_prompt",
    "class_prompt": "class_prompt",
    "base_model": "base_model",
    "pretrained_model_name_or_path": "base_model",
}

# The plan's own key in the hyperparameter map: 0 is what the trainer's planner chooses for the GPU, each tier further
# saves more memory at the price of speed.
MEMORY_TIER = "memory_tier"
HIGHEST_MEMORY_TIER = 4

LEAST_LORA_LEARNING_RATE = 1e-5  # at JumpStart's 2e-6 adapters learn next to nothing

Method = Literal["lora", "full"]
Hosting = Literal["shared", "dedicated"]
LoraTargets = Literal["attention", "all"]
Attention = Literal["auto", "sdpa", "xformers"]
LrScheduler = Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"]


def _unquote(value: Any) -> Any:
    """Strips one layer of JSON string quoting: '"200"' -> '200'."""
    if isinstance(value, str) and len(value) >= 2 and value[0] == value[-1] == '"':
        with suppress(ValueError):
            return json.loads(value)
    return value


def _flag(value: Any) -> Any:
    value = _unquote(value)
    if isinstance(value, str):
        return {"true": True, "1": True, "false": False, "0": False, "": False}.get(value.strip().lower(), value)
    return value


def _whole(value: Any) -> Any:
    """'400.0' -> 400; anything that is not integral is left for pydantic to refuse."""
    value = _unquote(value)
    if isinstance(value, bool):
        raise ValueError("a whole number is wanted, not true or false")
    if isinstance(value, str | float):
        with suppress(ValueError):
            return int(number) if (number := float(value)).is_integer() else value
    return value


def _whole_or_none(value: Any) -> Any:
    value = _unquote(value)
    return None if value is None or value in ("None", "null", "") else _whole(value)


def _real(value: Any) -> Any:
    value = _unquote(value)
    if isinstance(value, bool):
        raise ValueError("a number is wanted, not true or false")
    return value


def _real_or_none(value: Any) -> Any:
    value = _unquote(value)
    return None if value is None or value in ("None", "null", "") else _real(value)


Flag = Annotated[bool, BeforeValidator(_flag)]
Whole = Annotated[int, BeforeValidator(_whole)]
WholeOrNone = Annotated[int | None, BeforeValidator(_whole_or_none)]
Real = Annotated[float, BeforeValidator(_real), Field(allow_inf_nan=False)]
RealOrNone = Annotated[float | None, BeforeValidator(_real_or_none)]
Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS, pattern=NOT_BLANK)]


class Hyperparameters(BaseModel):
    """JumpStart's names and defaults, and ours. Every field may come as text."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # ours
    method: Annotated[Method, BeforeValidator(_unquote)] = Field(
        "lora",
        description="lora: megabytes a subject. full: every weight of the UNet, as JumpStart does; it is also meant by "
        f"a learning_rate below {LEAST_LORA_LEARNING_RATE} beside neither method nor lora_ fields.",
    )
    resolution: WholeOrNone = Field(
        None, ge=32, le=1024, multiple_of=8, description="Side in pixels; the base model's own when absent."
    )
    train_text_encoder: Flag = Field(False, description="Train the text encoder too (its LoRA with method lora).")
    lora_rank: Whole = Field(16, ge=1, le=256)
    lora_targets: Annotated[LoraTargets, BeforeValidator(_unquote)] = Field(
        "attention", description="Layers that get an adapter; all: the UNet's convolutions and feed-forwards too."
    )
    lora_alpha: RealOrNone = Field(None, gt=0, le=1024, description="Scale of the LoRA update; the rank when absent.")
    mixed_precision: Annotated[Literal["auto", "no", "fp16", "bf16"], BeforeValidator(_unquote)] = Field(
        "auto", description="auto: bf16 where the GPU has it, fp16 on other GPUs, no on the CPU."
    )
    attention: Annotated[Attention, BeforeValidator(_unquote)] = Field(
        "auto", description="auto: torch's own (sdpa). xformers: tried at the start, and an error if it does not work."
    )
    gradient_checkpointing: Flag = Field(False, description="Slower, less memory.")
    not_cache_latents: Flag = Field(
        False, description="Cut and encode the photos anew at every step: slower, and every crop is another."
    )
    use_8bit_adam: Flag = Field(False, description="Less memory; needs a GPU, the usual AdamW serves elsewhere.")
    textual_inversion_steps: Whole = Field(
        0, ge=0, le=1_000_000, description="First learn what the subject's own word means; then train as usual."
    )
    textual_inversion_learning_rate: Real = Field(5e-4, gt=0, le=1)
    use_ema: Flag = Field(False, description="Keep a moving average of the weights and publish that.")
    ema_decay: Real = Field(0.9999, gt=0, lt=1, description="Of that average; it follows more closely at first.")
    snr_gamma: RealOrNone = Field(None, gt=0, description="Min-SNR weighting of the loss, usually 5; off when absent.")
    noise_offset: Real = Field(0.0, ge=0, le=1, description="Noise common to a channel: darker darks, lighter lights.")
    aspect_buckets: Flag = Field(False, description="Keep upright and wide photos so, instead of cutting them square.")
    random_flip: Flag = Field(False, description="Also train on mirror images; not for subjects that carry text.")
    save_steps: Whole = Field(200, ge=1, le=1_000_000, description="Steps between two checkpoints.")
    lr_warmup_steps: Whole = Field(0, ge=0, le=1_000_000)
    sample_batch_size: Whole = Field(4, ge=1, le=64, description="Class images generated at a time.")

    # JumpStart's
    with_prior_preservation: Flag = Field(False, description="Add the prior-preservation loss.")
    num_class_images: Whole = Field(
        100, ge=1, le=MAX_CLASS_IMAGES, description="Class images for prior preservation; the shortfall is generated."
    )
    prior_loss_weight: Real = Field(1.0, gt=0, le=1000)
    epochs: Whole = Field(20, ge=1, le=10_000, description="Passes over the images.")
    max_steps: WholeOrNone = Field(None, ge=1, le=1_000_000, description="Steps in all; overrides epochs.")
    batch_size: Whole = Field(1, ge=1, le=64, description="Photos a step, on each GPU.")
    learning_rate: RealOrNone = Field(None, gt=0, le=1, description="2e-6 for full and 1e-4 for lora when absent.")
    center_crop: Flag = Field(False, description="Crop at the centre rather than at random.")
    lr_scheduler: Annotated[LrScheduler, BeforeValidator(_unquote)] = "constant"
    adam_weight_decay: Real = Field(1e-2, ge=0)
    adam_beta1: Real = Field(0.9, ge=0, lt=1)
    adam_beta2: Real = Field(0.999, ge=0, lt=1)
    adam_epsilon: Real = Field(1e-8, gt=0)
    gradient_accumulation_steps: Whole = Field(1, ge=1, le=1024)
    max_grad_norm: Real = Field(1.0, gt=0)
    seed: Whole = Field(0, ge=0, lt=2**32)
    compute_fid: Flag = Field(False, description="Accepted for JumpStart's sake; only False is served so far.")

    @model_validator(mode="before")
    @classmethod
    def _resolve_aliases(cls, values: Any) -> Any:
        return renamed(values, ALIASES) if isinstance(values, Mapping) else values

    @field_validator("compute_fid")
    @classmethod
    def _no_fid_yet(cls, value: bool) -> bool:
        if value:
            raise ValueError("FID is not computed; leave compute_fid at False")
        return value

    @property
    def effective_learning_rate(self) -> float:
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-4 if self.method == "lora" else 2e-6

    def total_steps(self, instance_images: int, gpus: int = 1) -> int:
        """Optimiser steps: max_steps, or epochs x ceil(images / images a step)."""
        if self.max_steps is not None:
            return self.max_steps
        return self.epochs * math.ceil(instance_images / (self.batch_size * self.gradient_accumulation_steps * gpus))

    def to_sagemaker(self) -> dict[str, str]:
        """The map that CreateTrainingJob wants: text only, defaults included, None left out."""
        return {name: str(value) for name, value in self.model_dump().items() if value is not None}


def renamed(values: Mapping[Any, Any], names: Mapping[str, str]) -> dict[Any, Any]:
    """The same values under their own names. Raises ValueError if one is given twice."""
    result: dict[Any, Any] = {}
    for key, value in values.items():
        name = names.get(key, key)
        if name in result:
            raise ValueError(f"{name} is given twice, once as {key if key != name else 'another name of it'}")
        result[name] = value
    return result


class JobHyperparameters(BaseModel):
    """The whole map of a training job: how to train, and, for jobs made by hand, what.

    What is None stands in dataset_info.json or in the base model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    instance_prompt: Prompt | None = None
    class_prompt: Prompt | None = None
    base_model: str | None = None
    memory_tier: Whole = Field(0, ge=0, le=HIGHEST_MEMORY_TIER)
    training: Hyperparameters = Hyperparameters()

    @classmethod
    def from_sagemaker(cls, values: Mapping[str, str]) -> Self:
        """Reads hyperparameters.json. Raises pydantic.ValidationError naming the field and the allowed range."""
        own = {key: value for key, value in values.items() if not key.startswith(FOREIGN_KEY_PREFIXES)}
        subject, training = split_subject_keys(own)
        tier = {MEMORY_TIER: training.pop(MEMORY_TIER)} if MEMORY_TIER in training else {}
        unquoted = {key: _unquote(value) for key, value in subject.items()}
        return cls.model_validate({**unquoted, **tier, "training": training})


def split_subject_keys(values: Mapping[Any, Any]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """(what is about the subject, under our names; the rest). Raises ValueError if one is given twice."""
    subject = {key: value for key, value in values.items() if key in SUBJECT_KEYS}
    return renamed(subject, SUBJECT_KEYS), {key: value for key, value in values.items() if key not in SUBJECT_KEYS}


class TrainingDefaults(BaseModel):
    """training_defaults.json of a base model: a set of hyperparameters for each method, for what a dataset leaves open.

    Dumped with nothing but what was set, so that it reads back as it was written.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lora: Hyperparameters = Hyperparameters()
    full: Hyperparameters = Hyperparameters()

    @field_validator("lora", "full")
    @classmethod
    def _method_is_the_key(cls, value: Hyperparameters) -> Hyperparameters:
        if "method" in value.model_fields_set:
            raise ValueError("method is the key that the set stands under; leave it out")
        return value

    @field_serializer("lora", "full")
    def _only_what_is_set(self, value: Hyperparameters) -> dict[str, Any]:
        return value.model_dump(exclude_unset=True)

    def of(self, method: Method) -> Hyperparameters:
        return self.lora if method == "lora" else self.full


# What the weights of a model are: who trains them further cannot choose it anew.
KIND_OF_MODEL = ("method", "lora_rank", "lora_targets", "lora_alpha", "train_text_encoder")


def as_before(asked: Hyperparameters, before: Hyperparameters) -> Hyperparameters:
    """For training a model further: its kind is what it is. Raises ValueError if another one is asked for."""
    kind = {name: getattr(before, name) for name in KIND_OF_MODEL}
    for name in asked.model_fields_set & kind.keys():
        if getattr(asked, name) != kind[name]:
            raise ValueError(f"{name} is {kind[name]} in the model to go on from (got {getattr(asked, name)})")
    return asked.model_copy(update=kind)


def _method_meant(asked: Hyperparameters) -> Method:
    """JumpStart's clients know no method: they train the whole model, and send a rate that is meant for it."""
    rate, named = asked.learning_rate, asked.model_fields_set
    speaks_of_lora = "method" in named or any(name.startswith("lora_") for name in named)
    return "full" if rate is not None and rate < LEAST_LORA_LEARNING_RATE and not speaks_of_lora else asked.method


def settle_hyperparameters(
    asked: Hyperparameters, defaults: TrainingDefaults, resolution: int, *, has_classes: bool
) -> Hyperparameters:
    """What was set explicitly wins, then the base model's default for the method, then the contract's.

    A default yields to what it would contradict: max_steps to epochs that were asked for, prior preservation to a
    missing class prompt (has_classes: every subject has one). `resolution` is the base model's own. Settling twice is
    settling once, also after a dump.
    """
    asked = asked.model_copy(update={"method": _method_meant(asked)})
    default = defaults.of(asked.method)
    left_open = default.model_fields_set - asked.model_fields_set
    if "epochs" in asked.model_fields_set:
        left_open -= {"max_steps"}
    if not has_classes:
        left_open -= {"with_prior_preservation"}
    settled = asked.model_copy(update={name: getattr(default, name) for name in left_open})
    return settled.model_copy(update={"resolution": settled.resolution or resolution})


class Concept(BaseModel):
    """One of several subjects that are trained together: its photos, and what it is called."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", description="Of the dataset, with this subject's photos."
    )
    instance_prompt: Prompt
    class_prompt: Prompt | None = None

    @field_validator("folder")
    @classmethod
    def _is_not_the_class_images(cls, value: str) -> str:
        if value == CLASS_IMAGES.rstrip("/"):
            raise ValueError("this folder holds class images")
        return value


class DatasetInfo(BaseModel):
    """dataset_info.json at the top of a dataset: JumpStart's two fields, and optionally what to train and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instance_prompt: Prompt = Field(description="Names the subject by a rare word: a photo of sks dog.")
    class_prompt: Prompt | None = Field(None, description="The same without the rare word: a photo of a dog.")
    base_model: str | None = Field(None, max_length=32, description="Id of an imported base model.")
    concepts: list[Concept] = Field(
        default_factory=list, max_length=MAX_CONCEPTS, description="Further subjects, each in a folder of its own."
    )
    continue_from: str | None = Field(
        None, pattern=CONTINUE_FROM_PATTERN, description="Subject whose model is trained further; or subject@version."
    )
    hosting: Hosting | None = Field(None, description="dedicated: an endpoint of its own. Default: the deployment's.")
    hyperparameters: Hyperparameters = Field(default_factory=Hyperparameters)

    @model_validator(mode="before")
    @classmethod
    def _lift_subject_keys(cls, values: Any) -> Any:
        """Prompts and base model may stand among the hyperparameters, where other trainers have them."""
        if not (isinstance(values, Mapping) and isinstance(values.get("hyperparameters"), Mapping)):
            return values
        subject, training = split_subject_keys(values["hyperparameters"])
        twice = sorted(subject.keys() & {key for key, value in values.items() if value is not None})
        if twice:
            raise ValueError(f"{twice[0]} is given twice, once among the hyperparameters")
        return {**values, **subject, "hyperparameters": training}

    @model_validator(mode="after")
    def _prior_needs_a_class(self) -> Self:
        nameless = [concept.folder for concept in self.concepts if not concept.class_prompt]
        if self.hyperparameters.with_prior_preservation and (nameless or not self.class_prompt):
            raise ValueError(f"with_prior_preservation needs a class_prompt{f' of {nameless[0]}' if nameless else ''}")
        return self

    @model_validator(mode="after")
    def _a_word_to_learn_is_one_that_the_class_lacks(self) -> Self:
        if not self.hyperparameters.textual_inversion_steps:
            return self
        named = [(self.instance_prompt, self.class_prompt)]
        named += [(concept.instance_prompt, concept.class_prompt) for concept in self.concepts]
        for instance, of_class in named:
            if of_class is None:
                raise ValueError("textual_inversion_steps needs a class_prompt: the word to learn is the one it lacks")
            if not own_words(instance, of_class):
                raise ValueError(f"textual_inversion_steps: {instance!r} has no word that {of_class!r} lacks")
        return self

    @field_validator("concepts")
    @classmethod
    def _folders_differ(cls, value: list[Concept]) -> list[Concept]:
        if len({concept.folder for concept in value}) < len(value):
            raise ValueError("two concepts have the same folder")
        return value

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Raises InvalidDatasetInfo naming every field that is wrong."""
        try:
            values = read_json(content)
        except ValueError as error:
            raise InvalidDatasetInfo(f"dataset_info.json is not JSON ({error}).") from error
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InvalidDatasetInfo(f"dataset_info.json: {describe(error)}.", _cure(error)) from error

    @classmethod
    def from_subject_name(cls, subject: str) -> Self:
        """For a dataset without dataset_info.json: red-panda -> 'a photo of sks red panda'."""
        noun = subject.replace("-", " ")
        return cls(instance_prompt=f"a photo of sks {noun}", class_prompt=f"a photo of a {noun}")


def _cure(error: ValidationError) -> str | None:
    """None, which is a whole example, when a prompt or the document itself is wrong."""
    names = [next(iter(item["loc"]), "") for item in error.errors(include_url=False, include_input=False)]
    if not {"", "instance_prompt", "class_prompt"}.isdisjoint(names):
        return None
    inner = next((name for name in names if name in _OF_TRAINING), None)
    if inner:
        return f'Put {inner} among the hyperparameters: {{"hyperparameters": {{"{inner}": ...}}}}.'
    return "Correct the named fields and upload dataset_info.json again."


class TrainingRequest(BaseModel):
    """A checked dataset_info.json with nothing left to guess."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str
    base_model: str
    instance_prompt: Prompt
    class_prompt: Prompt | None
    concepts: list[Concept] = []
    continue_from: str | None = None
    previous_prefix: str | None = Field(None, description="Key prefix of the model that continue_from names.")
    hosting: Hosting = "shared"
    hyperparameters: Hyperparameters

    def class_image_sets(self, base_model_checksum: str) -> list[str]:
        """Of the pictures that prior preservation wants; none without it."""
        wanted = self.hyperparameters
        if not wanted.with_prior_preservation:
            return []
        return [
            class_image_set(base_model_checksum, prompt, wanted.resolution or 0, wanted.seed)
            for prompt in self.class_prompts
        ]

    @property
    def class_prompts(self) -> list[str]:
        """Each once."""
        prompts = [self.class_prompt, *(concept.class_prompt for concept in self.concepts)]
        return list(dict.fromkeys(prompt for prompt in prompts if prompt))

    def dataset_info(self) -> DatasetInfo:
        """What the training container reads beside the images."""
        return DatasetInfo(
            instance_prompt=self.instance_prompt,
            class_prompt=self.class_prompt,
            base_model=self.base_model,
            concepts=self.concepts,
            continue_from=self.continue_from,
            hosting=self.hosting,
            hyperparameters=self.hyperparameters,
        )


_OF_TRAINING = (*Hyperparameters.model_fields, *ALIASES)
_KNOWN = (*_OF_TRAINING, *DatasetInfo.model_fields)


def describe(error: ValidationError, fields: Iterable[str] = _KNOWN) -> str:
    """field.path: what is wrong (got value); ... for people. fields: of which one may be meant by an unknown one."""
    return in_words(error, fields)
