"""Class pictures for prior preservation: the base model draws the shortfall once; a restart finds them again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from training_container.dreambooth.sampling import Sampler
from training_container.dreambooth.team import ALONE, Team


def class_image_folder(parent: Path, *identity: object) -> Path:
    """A folder of its own for each (base model, prompt, size, seed, batch): no picture of another run is reused."""
    return parent / f"class_images-{hashlib.sha256(repr(identity).encode()).hexdigest()[:12]}"


def generate_class_images(
    folder: Path,
    shortfall: int,
    batch_size: int,
    sampler: Sampler,
    prompt: Tensor,
    empty: Tensor,
    on_batch: Callable[[int], None],
    team: Team = ALONE,
) -> list[Path]:
    """Exactly `shortfall` PNG files. Whole batches that are there are kept, so a restart draws the same pictures.

    The team shares the batches. on_batch gets the number of pictures that are done; it may raise to stop.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"class-{number:04}.png" for number in range(shortfall)]
    for first in range(0, shortfall, batch_size):
        on_batch(first)
        batch = range(first, min(first + batch_size, shortfall))
        if first // batch_size % team.size != team.rank or all(files[number].exists() for number in batch):
            continue
        for number, drawn in zip(batch, sampler.draw(prompt, empty, "class image", batch), strict=True):
            partial = files[number].with_suffix(".partial")
            drawn.picture.save(partial, format="PNG")
            partial.replace(files[number])
    team.wait()
    return files
