"""Class pictures for prior preservation: the base model draws the shortfall once; a restart finds them again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from contracts.artifact import MIN_CONTRAST
from contracts.errors import InvalidBaseModel
from contracts.storage import CLASS_IMAGES
from training_container.dreambooth.sampling import Sampler
from training_container.dreambooth.team import ALONE, Team

CURE = (
    f"Import the base model again, ask for another class_prompt, or put class pictures of your own into {CLASS_IMAGES}."
)


def generate_class_images(
    folder: Path,
    kept: Path,
    shortfall: int,
    batch_size: int,
    sampler: Sampler,
    prompt: Tensor,
    empty: Tensor,
    on_batch: Callable[[int], None],
    team: Team = ALONE,
) -> list[Path]:
    """Exactly `shortfall` PNG files: those of earlier jobs in `kept`, the others drawn into `folder`.

    Whole batches that are there are not drawn again, so a restart draws the same pictures. The team shares the batches.
    on_batch gets the number of pictures that are done; it may raise to stop. Raises InvalidBaseModel.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"class-{number:04}.png" for number in range(shortfall)]
    files = [kept / name if (kept / name).is_file() else folder / name for name in names]
    for first in range(0, shortfall, batch_size):
        on_batch(first)
        batch = range(first, min(first + batch_size, shortfall))
        if first // batch_size % team.size != team.rank or all(files[number].exists() for number in batch):
            continue
        for number, drawn in zip(batch, sampler.draw(prompt, empty, "class image", batch), strict=True):
            if files[number].exists():
                continue
            if not drawn.finite or drawn.contrast < MIN_CONTRAST:  # later jobs would train on it too
                raise InvalidBaseModel(f"The base model draws blank class pictures (number {number}).", CURE)
            partial = files[number].with_suffix(".partial")
            drawn.picture.save(partial, format="PNG")
            partial.replace(files[number])
    team.wait()
    return files
