"""The pictures of the subject's class: those that came with the dataset or from earlier jobs, and those to be drawn."""

from __future__ import annotations

import logging
from functools import partial

import torch

from contracts.artifact import BaseModelManifest
from contracts.storage import class_image_folder, class_image_set
from training_container.dreambooth.dataset import Picture, read_pictures
from training_container.dreambooth.prior import generate_class_images
from training_container.dreambooth.team import Team
from training_container.photos import Photos, class_rule
from training_container.platform import Platform
from training_container.settings import TrainingSettings
from training_container.studio import NO_PROMPT, Studio

logger = logging.getLogger("training")


def prior_pictures(
    platform: Platform,
    studio: Studio,
    settings: TrainingSettings,
    manifest: BaseModelManifest,
    photos: Photos,
    total_steps: int,
    team: Team,
) -> list[Picture]:
    """The class pictures of the dataset and, up to num_class_images of each class, some that the base model draws."""
    wanted = settings.hyperparameters
    pictures: list[Picture] = []
    for class_prompt in settings.class_prompts:
        given = photos.prior[class_prompt]
        pictures += given
        shortfall = wanted.num_class_images - len(given) // len(photos.frames)
        if shortfall <= 0:
            continue
        on_batch = partial(tell_class_images, platform, class_prompt, shortfall, total_steps)
        folder = class_image_folder(
            class_image_set(manifest.checksum, class_prompt, wanted.resolution or 0, wanted.seed)
        )
        with torch.no_grad():
            files = generate_class_images(
                platform.checkpoints / folder,
                platform.channel(folder),
                shortfall,
                wanted.sample_batch_size,
                studio.sampler,
                studio.prompts.embeddings([studio.prompts.row(class_prompt)]),
                studio.prompts.embeddings([studio.prompts.row(NO_PROMPT)]),
                on_batch,
                team,
            )
        pictures += read_pictures(files, class_prompt, class_rule(photos.rule), photos.frames)
    return pictures


def tell_class_images(platform: Platform, class_prompt: str, wanted: int, total_steps: int, done: int) -> None:
    """Raises TrainingStopped once SIGTERM has come."""
    platform.raise_if_stopped()
    platform.report_progress("class_images", 0, total_steps)
    logger.info("class pictures: %d of %d of %r", done, wanted, class_prompt)
