"""Photos from a folder: every file judged before anything is trained, upright, RGB, cropped to the training size."""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from contracts.errors import EmptyDataset, ImageTooLarge, TooManyImages, UnreadableImage
from contracts.storage import CLASS_IMAGES
from contracts.training import (
    IMAGE_EXTENSIONS,
    MAX_ASPECT_RATIO,
    MAX_IMAGE_BYTES,
    MAX_IMAGE_PIXELS,
    MAX_INSTANCE_IMAGES,
    MAX_PROMPT_CHARACTERS,
)
from training_container.dreambooth.draws import generator_for

logger = logging.getLogger("training")

Image.MAX_IMAGE_PIXELS = MAX_IMAGE_PIXELS
FORMATS = ("PNG", "JPEG", "WEBP")
CROPS_OF_A_PHOTO = 4  # positions along the longer side; a square photo has one
MATTE = (255, 255, 255)  # behind transparent pixels
NAMED_IN_AN_ERROR = 5


@dataclass(frozen=True)
class Picture:
    name: str
    sha256: str
    prompt: str
    crops: tuple[Image.Image, ...]  # RGB, resolution x resolution


@dataclass(frozen=True)
class CropRule:
    resolution: int
    center: bool
    seed: int
    crops: int = CROPS_OF_A_PHOTO
    mirrored: bool = False  # also the mirror image of each crop


def image_files(directory: Path) -> list[Path]:
    """Pictures at the top level by name; hidden files, folders and every other file are no part of a dataset."""
    if not directory.is_dir():
        return []
    return sorted(
        (
            path
            for path in directory.iterdir()
            if path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".") and path.is_file()
        ),
        key=lambda path: path.name,
    )


def read_instance_pictures(dataset: Path, prompt: str, rule: CropRule) -> list[Picture]:
    """Raises EmptyDataset, TooManyImages, ImageTooLarge and UnreadableImage, the last two naming the files."""
    files = image_files(dataset)
    if not files:
        raise EmptyDataset("The dataset holds no picture.")
    if len(files) > MAX_INSTANCE_IMAGES:
        raise TooManyImages(f"The dataset holds {len(files)} pictures, more than {MAX_INSTANCE_IMAGES}.")
    return read_pictures(files, prompt, rule)


def read_class_pictures(dataset: Path, prompt: str, wanted: int, rule: CropRule) -> list[Picture]:
    """At most `wanted` of the class pictures that came with the dataset; possibly none."""
    return read_pictures(image_files(dataset / CLASS_IMAGES)[:wanted], prompt, rule)


def read_pictures(files: list[Path], prompt: str, rule: CropRule) -> list[Picture]:
    """Judges every file before it gives up, so that one error names all bad ones."""
    pictures: list[Picture] = []
    unreadable: list[str] = []
    too_large: list[str] = []
    for index, path in enumerate(files):
        try:
            pictures.append(_read_one(path, index, prompt, rule))
        except UnreadableImage as error:
            unreadable.append(error.cause)
        except ImageTooLarge as error:
            too_large.append(error.cause)
    if unreadable:
        raise UnreadableImage(_list_of(unreadable))
    if too_large:
        raise ImageTooLarge(_list_of(too_large))
    return pictures


def _list_of(causes: list[str]) -> str:
    more = len(causes) - NAMED_IN_AN_ERROR
    return " ".join(causes[:NAMED_IN_AN_ERROR]) + (f" And {more} more." if more > 0 else "")


def _read_one(path: Path, index: int, prompt: str, rule: CropRule) -> Picture:
    if path.stat().st_size > MAX_IMAGE_BYTES:
        raise ImageTooLarge(f"{path.name} is larger than {MAX_IMAGE_BYTES // 2**20} MiB.")
    content = path.read_bytes()
    upright = open_picture(content, path.name)
    if max(upright.size) > MAX_ASPECT_RATIO * min(upright.size):
        raise ImageTooLarge(
            f"{path.name} is a strip: its longer side is more than {MAX_ASPECT_RATIO} times the shorter."
        )
    return Picture(
        name=path.name,
        sha256=hashlib.sha256(content).hexdigest(),
        prompt=caption_of(path) or prompt,
        crops=crops_of(upright, index, rule),
    )


def caption_of(picture: Path) -> str | None:
    """Text of the .txt file beside the picture, which then replaces the instance prompt."""
    path = picture.with_suffix(".txt")
    if not path.is_file():
        return None
    text = path.read_bytes().decode("utf-8-sig", errors="replace").strip()
    return text[:MAX_PROMPT_CHARACTERS] or None


def open_picture(content: bytes, name: str) -> Image.Image:
    """Decodes a picture whole: upright, RGB. Raises UnreadableImage and ImageTooLarge, naming the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
                return to_rgb(ImageOps.exif_transpose(picture))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"{name} has more than {MAX_IMAGE_PIXELS // 10**6} million pixels.") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"{name} is not a PNG, JPEG or WebP picture.") from error
    except MemoryError:
        raise
    except Exception as error:  # the decoders and the EXIF reader raise whatever a damaged byte leads them to
        raise UnreadableImage(f"{name} cannot be decoded ({error}).") from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any colour mode to RGB: transparency over white, 16-bit grey scaled to 8 bits, CMYK converted."""
    if picture.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        picture = picture.convert("I").point(lambda value: value / 257).convert("L")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.new("RGB", layer.size, MATTE)
        picture.paste(layer, mask=layer.getchannel("A"))
    return picture.convert("RGB")


def crops_of(picture: Image.Image, index: int, rule: CropRule) -> tuple[Image.Image, ...]:
    """Shorter side scaled to the resolution, then cut square: in the middle, or at seeded places."""
    side = rule.resolution
    scale = side / min(picture.size)
    width, height = (max(side, round(length * scale)) for length in picture.size)
    scaled = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    room = width - side + height - side
    if rule.center or room == 0:
        places = [room // 2]
    else:
        generator = generator_for(rule.seed, "crop", index)
        places = torch.randint(0, room + 1, (rule.crops,), generator=generator).tolist()
    cut = tuple(_cut(scaled, place, side) for place in places)
    return (*cut, *map(ImageOps.mirror, cut)) if rule.mirrored else cut


def _cut(scaled: Image.Image, place: int, side: int) -> Image.Image:
    left, top = (place, 0) if scaled.width > side else (0, place)
    return scaled.crop((left, top, left + side, top + side))
