"""The model on the device, and what is needed to draw with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from training_container.base_model import BaseModel
from training_container.dreambooth.precision import Precision, release
from training_container.dreambooth.sampling import GUIDANCE_SCALE, Drawn, Sampler
from training_container.dreambooth.text import PromptTable
from training_container.dreambooth.trainable import Trainable, make_trainable
from training_container.photos import Photos
from training_container.settings import TrainingSettings

SAMPLE_PICTURES = 2
NO_PROMPT = ""


@dataclass
class Studio:
    model: Trainable
    prompts: PromptTable
    sampler: Sampler


def furnish(base: BaseModel, settings: TrainingSettings, photos: Photos, precision: Precision) -> Studio:
    """Moves the model to the device and encodes every prompt; a frozen text encoder is used once, here."""
    wanted = settings.hyperparameters
    model = make_trainable(base.unet, base.text_encoder, wanted, precision)
    precision.move(base.vae)
    prompts = [NO_PROMPT, *(subject.instance_prompt for subject in settings.subjects), *settings.class_prompts]
    prompts += [picture.prompt for pictures in (photos.instance, *photos.prior.values()) for picture in pictures]
    table = PromptTable(prompts, base.tokenizer, base.text_encoder, precision, trained=wanted.train_text_encoder)
    if not wanted.train_text_encoder:
        release(base.text_encoder)
    sampler = Sampler(
        model.predict,
        base.vae,
        base.scheduler_config,
        precision,
        wanted.resolution or 0,
        wanted.seed,
        guidance_scale=base.manifest.generation_defaults.guidance_scale or GUIDANCE_SCALE,
    )
    return Studio(model, table, sampler)


def refresh_prompts(base: BaseModel, prompts: PromptTable, trained: bool) -> None:
    """After the text encoder has changed; a frozen one is not needed any more."""
    if trained:
        prompts.thaw()
    else:
        prompts.freeze()
        release(base.text_encoder)


def draw_samples(studio: Studio, prompts: list[str]) -> list[Drawn]:
    studio.model.train_mode(False)
    studio.model.precision.move(studio.sampler.vae)
    table = studio.prompts
    drawn: list[Drawn] = []
    with torch.no_grad():
        for prompt in prompts:
            numbers = range(len(drawn), len(drawn) + SAMPLE_PICTURES)
            empty = table.embeddings([table.row(NO_PROMPT)])
            drawn += studio.sampler.draw(table.embeddings([table.row(prompt)]), empty, "sample", numbers)
    return drawn
