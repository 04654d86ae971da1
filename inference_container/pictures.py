"""Pictures as pixels: source pictures read, drawn ones enlarged, marked and written to files with their origin."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin
from torch import Tensor

from contracts.errors import InvalidRequest
from contracts.generation import MAX_SIDE, PictureFormat

Pixels: TypeAlias = NDArray[np.uint8]  # height x width x 3, RGB

JPEG_QUALITY = 95
SOURCE_FORMATS = ("PNG", "JPEG", "WEBP")
MOST_SOURCE_PIXELS = 64_000_000
SIDE_MULTIPLE = 8
_IMAGE_DESCRIPTION = 0x010E  # the EXIF tag that viewers show
_MARK_HEIGHT = 24  # of a picture's height, one such part
_LEAST_LETTERS = 8  # pixels


def read_source(content: bytes) -> Image.Image:
    """Upright, RGB, transparent parts white. Raises InvalidRequest."""
    try:
        picture = Image.open(io.BytesIO(content), formats=SOURCE_FORMATS)
        if picture.width * picture.height > MOST_SOURCE_PIXELS:
            raise InvalidRequest(f"source_image: {picture.width} x {picture.height} pixels are too many.")
        upright = _eight_bit(ImageOps.exif_transpose(picture)).convert("RGBA")
    except InvalidRequest:
        raise
    except Exception as error:  # whatever a reader makes of broken bytes, they are the caller's
        raise InvalidRequest(
            f"source_image: is not a picture that can be read ({type(error).__name__}).", "Upload a PNG, JPEG or WebP."
        ) from error
    return Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Pillow cuts 16-bit greys off at 255 instead of scaling them."""
    if not picture.mode.startswith("I"):
        return picture
    return picture.convert("I").point(lambda value: value / 257).convert("L")


def size_like(source: Image.Image, resolution: int) -> tuple[int, int]:
    """(width, height) in the source's proportions; the shorter side is what the model was trained for."""
    scale = resolution / min(source.size)
    longest = MAX_SIDE // SIDE_MULTIPLE
    width, height = (min(longest, max(1, round(side * scale / SIDE_MULTIPLE))) for side in source.size)
    return width * SIDE_MULTIPLE, height * SIDE_MULTIPLE


def fitted(source: Image.Image, width: int, height: int) -> Tensor:
    """(1, 3, height, width) in [-1, 1]; what does not fit is cut off around the centre."""
    picture = ImageOps.fit(source, (width, height), Image.Resampling.LANCZOS)
    return to_tensor(np.asarray(picture))


def to_tensor(pixels: Pixels) -> Tensor:
    """(1, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]


def to_pixels(picture: Tensor) -> Pixels:
    """(3, H, W) in [0, 1], rounded as diffusers rounds."""
    pixels: Pixels = (picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return pixels


def enlarged(pixels: Pixels, times: int) -> Pixels:
    height, width, _ = pixels.shape
    picture = Image.fromarray(pixels).resize((width * times, height * times), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def marked(pixels: Pixels, text: str) -> Pixels:
    """With the text in the lower right corner, white with a dark edge."""
    picture = Image.fromarray(pixels)
    font = ImageFont.load_default(max(_LEAST_LETTERS, picture.height // _MARK_HEIGHT))
    margin = picture.height // (2 * _MARK_HEIGHT)
    ImageDraw.Draw(picture).text(
        (picture.width - margin, picture.height - margin),
        text,
        "white",
        font,
        anchor="rd",
        stroke_width=1,
        stroke_fill="black",
    )
    return np.asarray(picture)


def to_file(pixels: Pixels, form: PictureFormat, origin: Mapping[str, object]) -> bytes:
    """How it came about stands in the file: as PNG text, else as EXIF ImageDescription; JSON in both."""
    told = json.dumps(origin)
    picture = Image.fromarray(pixels)
    buffer = io.BytesIO()
    if form == "png":
        text = PngImagePlugin.PngInfo()
        text.add_text("Description", told)
        picture.save(buffer, "PNG", pnginfo=text)
        return buffer.getvalue()
    exif = Image.Exif()
    exif[_IMAGE_DESCRIPTION] = told
    picture.save(buffer, form.upper(), quality=JPEG_QUALITY, lossless=form == "webp", exif=exif)
    return buffer.getvalue()


# "[rrr,ggg,bbb]," with zeros in the place of missing digits, which are left out in the end.
_DIGITS = np.array([list(str(value).rjust(3, "\0").encode()) for value in range(256)], np.uint8)
_PLACE = np.frombuffer(b"[000,000,000],", np.uint8)
_NUMBERS = (slice(1, 4), slice(5, 8), slice(9, 12))


def to_json(pixels: Pixels) -> bytes:
    """[[[r,g,b],...],...] without spaces. A picture of 2048 x 2048 is twelve million numbers: json takes seconds."""
    return b"[" + b",".join(map(_row_to_json, pixels)) + b"]"


def _row_to_json(row: Pixels) -> bytes:
    text = np.tile(_PLACE, (len(row), 1))
    for channel, number in enumerate(_NUMBERS):
        text[:, number] = _DIGITS[row[:, channel]]
    return b"[" + text.tobytes().replace(b"\0", b"")[:-1] + b"]"
