"""The pictures of a training: those that came with the dataset, cut to their frames."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from contracts.storage import CLASS_IMAGES
from training_container.base_model import frame_multiple
from training_container.dreambooth.dataset import (
    CropRule,
    Frame,
    Picture,
    ignored_files,
    read_class_pictures,
    read_instance_pictures,
)
from training_container.platform import Platform
from training_container.settings import TrainingSettings

NAMED_IN_THE_LOG = 10

logger = logging.getLogger("training")


@dataclass(frozen=True)
class Photos:
    instance: list[Picture]
    prior: dict[str, list[Picture]]  # by class prompt: those that came with the dataset
    rule: CropRule

    @property
    def frames(self) -> list[Frame]:
        return list(dict.fromkeys(picture.frame for picture in self.instance))


def read_photos(platform: Platform, settings: TrainingSettings) -> Photos:
    tell_ignored_files(platform, settings)
    wanted = settings.hyperparameters
    rule = CropRule(
        wanted.resolution or 0,
        wanted.center_crop,
        wanted.seed,
        mirrored=wanted.random_flip,
        multiple=frame_multiple(platform.base_model) if wanted.aspect_buckets else None,
    )
    instance = [
        picture
        for subject in settings.subjects
        for picture in read_instance_pictures(platform.dataset / subject.folder, subject.instance_prompt, rule)
    ]
    photos = Photos(instance, {}, rule)
    for subject in settings.subjects:
        if subject.class_prompt in settings.class_prompts:
            given = photos.prior.setdefault(subject.class_prompt, [])
            room = wanted.num_class_images - len(given) // len(photos.frames)
            folder = platform.dataset / subject.folder
            given += read_class_pictures(folder, subject.class_prompt, room, class_rule(rule), photos.frames)
    return photos


def tell_ignored_files(platform: Platform, settings: TrainingSettings) -> None:
    folders = [platform.dataset / subject.folder for subject in settings.subjects]
    names = [name for folder in folders for place in (folder, folder / CLASS_IMAGES) for name in ignored_files(place)]
    if names:
        named = ", ".join(map(repr, names[:NAMED_IN_THE_LOG]))
        logger.info("ignored, since they are no pictures: %s%s", named, ", ..." if names[NAMED_IN_THE_LOG:] else "")


def class_rule(rule: CropRule) -> CropRule:
    """Class pictures are many: one crop of each keeps them in memory."""
    return replace(rule, crops=1)
