"""Photos from a folder: every file judged before anything is trained, upright, RGB, cropped to the training size."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from pillow_heif import register_heif_opener

from contracts.errors import EmptyDataset, ImageTooLarge, TooManyImages, UnreadableImage
from contracts.storage import CLASS_IMAGES, DATASET_INFO
from contracts.training import (
    CAPTION_EXTENSION,
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
register_heif_opener()
FORMATS = ("PNG", "JPEG", "WEBP", "HEIF")
MOST_ELONGATED = 2  # a bucket's longer side over its shorter
CROPS_OF_A_PHOTO = 4  # positions along the longer side; a square photo has one
MATTE = (255, 255, 255)  # behind transparent pixels
NAMED_IN_AN_ERROR = 5


Frame = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True)
class CropRule:
    resolution: int
    center: bool
    seed: int
    crops: int = CROPS_OF_A_PHOTO
    mirrored: bool = False  # also the mirror image of each crop
    multiple: int | None = None  # of a bucket's sides in pixels; None: every picture is cut square

    def frame_for(self, size: tuple[int, int]) -> Frame:
        """The bucket whose shape is nearest to the picture's."""
        aspect = math.log(size[0] / size[1])
        return min(self.frames, key=lambda frame: abs(math.log(frame[0] / frame[1]) - aspect))

    @property
    def frames(self) -> list[Frame]:
        """Buckets of at most resolution x resolution pixels, none longer than twice its width; the square first."""
        side, multiple = self.resolution, self.multiple
        if multiple is None:
            return [(side, side)]
        widths = range(multiple, 2 * side, multiple)
        frames = [(width, side * side // width // multiple * multiple) for width in widths]
        longish = [
            (w, h) for w, h in frames if h and max(w, h) <= MOST_ELONGATED * min(w, h) and (w, h) != (side, side)
        ]
        return [(side, side), *longish]


@dataclass(frozen=True)
class Picture:
    """A photo that covers its frame: one side fits, along the other it may be cut at any place."""

    name: str
    sha256: str
    prompt: str
    scaled: Image.Image  # RGB
    frame: Frame
    places: tuple[int, ...]  # where it is cut if it is encoded only once
    mirrored: bool

    @property
    def crops(self) -> tuple[Image.Image, ...]:
        cut = tuple(self._cut(place) for place in self.places)
        return (*cut, *map(ImageOps.mirror, cut)) if self.mirrored else cut

    def fresh_crop(self, draw: int) -> Image.Image:
        """Cut at a place that the draw decides, not only at `places`."""
        draw, turned = divmod(draw, 2)
        cut = self._cut(draw % (self._room + 1) if len(self.places) > 1 else self.places[0])
        return ImageOps.mirror(cut) if self.mirrored and turned else cut

    @property
    def _room(self) -> int:
        return self.scaled.width - self.frame[0] + self.scaled.height - self.frame[1]

    def _cut(self, place: int) -> Image.Image:
        width, height = self.frame
        left, top = (place, 0) if self.scaled.width > width else (0, place)
        return self.scaled.crop((left, top, left + width, top + height))


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


def ignored_files(directory: Path) -> list[str]:
    """Names of the files at the top level that are no part of a dataset."""
    if not directory.is_dir():
        return []
    pictures = image_files(directory)
    known = {DATASET_INFO, *(path.name for path in pictures)}
    known |= {path.with_suffix(CAPTION_EXTENSION).name for path in pictures}
    return sorted(path.name for path in directory.iterdir() if path.is_file() and path.name not in known)


def read_instance_pictures(dataset: Path, prompt: str, rule: CropRule) -> list[Picture]:
    """Raises EmptyDataset, TooManyImages, ImageTooLarge and UnreadableImage, the last two naming the files."""
    files = image_files(dataset)
    if not files:
        raise EmptyDataset(f"The dataset holds no picture{'' if dataset.is_dir() else f' in {dataset.name}'}.")
    if len(files) > MAX_INSTANCE_IMAGES:
        raise TooManyImages(f"The dataset holds {len(files)} pictures, more than {MAX_INSTANCE_IMAGES}.")
    return read_pictures(files, prompt, rule)


def read_class_pictures(
    dataset: Path, prompt: str, wanted: int, rule: CropRule, frames: Sequence[Frame]
) -> list[Picture]:
    """At most `wanted` of the class pictures that came with the dataset, each in every frame; possibly none."""
    return read_pictures(image_files(dataset / CLASS_IMAGES)[:wanted], prompt, rule, frames)


def read_pictures(
    files: list[Path], prompt: str, rule: CropRule, frames: Sequence[Frame] | None = None
) -> list[Picture]:
    """Judges every file before it gives up, so that one error names all bad ones.

    frames: cut each picture to each of them; None: to the one that suits it best.
    """
    pictures: list[Picture] = []
    unreadable: list[str] = []
    too_large: list[str] = []
    for index, path in enumerate(files):
        try:
            pictures += _read_one(path, index, prompt, rule, frames)
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


def _read_one(path: Path, index: int, prompt: str, rule: CropRule, frames: Sequence[Frame] | None) -> list[Picture]:
    if path.stat().st_size > MAX_IMAGE_BYTES:
        raise ImageTooLarge(f"{path.name} is larger than {MAX_IMAGE_BYTES // 2**20} MiB.")
    content = path.read_bytes()
    upright = open_picture(content, path.name)
    if max(upright.size) > MAX_ASPECT_RATIO * min(upright.size):
        raise ImageTooLarge(
            f"{path.name} is a strip: its longer side is more than {MAX_ASPECT_RATIO} times the shorter."
        )
    named = {"name": path.name, "sha256": hashlib.sha256(content).hexdigest(), "prompt": caption_of(path) or prompt}
    wanted = [rule.frame_for(upright.size)] if frames is None else frames
    return [frame_picture(upright, index, rule, frame, **named) for frame in wanted]


def caption_of(picture: Path) -> str | None:
    """Text of the .txt file beside the picture, which then replaces the instance prompt."""
    path = picture.with_suffix(CAPTION_EXTENSION)
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
        raise UnreadableImage(f"{name} is not a PNG, JPEG, WebP or HEIC picture.") from error
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


def frame_picture(
    picture: Image.Image, index: int, rule: CropRule, frame: Frame, *, name: str, sha256: str, prompt: str
) -> Picture:
    """Scaled until it just covers the frame; to be cut in the middle, or at seeded places."""
    scale = max(frame[0] / picture.width, frame[1] / picture.height)
    size = (max(frame[0], round(picture.width * scale)), max(frame[1], round(picture.height * scale)))
    scaled = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    room = size[0] - frame[0] + size[1] - frame[1]
    if rule.center or room == 0:
        places = [room // 2]
    else:
        generator = generator_for(rule.seed, "crop", index)
        places = torch.randint(0, room + 1, (rule.crops,), generator=generator).tolist()
    return Picture(name, sha256, prompt, scaled, frame, tuple(places), rule.mirrored)
