"""lambdas/domain/images.py, against files that Pillow writes."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import zlib

import pytest
from PIL import Image
from pillow_heif import register_heif_opener

from lambdas.domain.images import ImageFacts, TooLarge, Unreadable, inspect

register_heif_opener()


def picture(kind: str, mode: str = "RGB", size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    noise = random.Random(0).randbytes(size[0] * size[1] * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", size, noise).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        (picture("PNG"), ImageFacts("png", 40, 30)),
        (picture("PNG", "P"), ImageFacts("png", 40, 30)),
        (picture("PNG", "RGBA"), ImageFacts("png", 40, 30)),
        (picture("JPEG"), ImageFacts("jpeg", 40, 30)),
        (picture("JPEG", "CMYK"), ImageFacts("jpeg", 40, 30)),
        (picture("JPEG", progressive=True), ImageFacts("jpeg", 40, 30)),
        (picture("JPEG", quality=100, subsampling=0, restart_marker_blocks=1), ImageFacts("jpeg", 40, 30)),
        (picture("WEBP"), ImageFacts("webp", 40, 30)),
        (picture("HEIF"), ImageFacts("heic", 40, 30)),
        (picture("HEIF", "RGBA"), ImageFacts("heic", 40, 30)),
        (picture("WEBP", lossless=True), ImageFacts("webp", 40, 30)),
        (picture("WEBP", "RGBA", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"), ImageFacts("webp", 40, 30)),
    ],
)
def test_a_whole_picture_is_read(content: bytes, facts: ImageFacts) -> None:
    assert inspect(content) == facts


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "HEIF"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.95])
def test_a_truncated_picture_is_unreadable(kind: str, kept: float) -> None:
    content = picture(kind, size=(64, 64))
    with pytest.raises(Unreadable):
        inspect(content[: int(len(content) * kept)])


@pytest.mark.parametrize(
    "content", [b"", b"hello, I am a text file", b"GIF89a....", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"]
)
def test_anything_else_is_unreadable(content: bytes) -> None:
    with pytest.raises(Unreadable):
        inspect(content)


def test_a_flipped_bit_in_a_png_is_noticed() -> None:
    content = bytearray(picture("PNG"))
    content[len(content) // 2] ^= 1
    with pytest.raises(Unreadable, match="checksum"):
        inspect(bytes(content))


def test_a_decompression_bomb_is_too_large_without_being_decoded() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    row = zlib.compress(bytes(1 + 30_000 * 3) * 100)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")
    with pytest.raises(TooLarge, match="30000×30000"):
        inspect(bomb)


@pytest.mark.parametrize("size", [(1, 60_000), (8, 2000), (2000, 100)])
def test_a_strip_is_too_large_for_training(size: tuple[int, int]) -> None:
    with pytest.raises(TooLarge, match="times the shorter"):
        inspect(picture("PNG", size=size))


@pytest.mark.parametrize(("size", "enough"), [((1, 1), False), ((15, 200), False), ((16, 16), True)])
def test_a_photo_of_a_few_pixels_is_none(size: tuple[int, int], enough: bool) -> None:
    if enough:
        assert inspect(picture("PNG", size=size)).width == size[0]
    else:
        with pytest.raises(Unreadable, match="each side needs 16"):
            inspect(picture("PNG", size=size))


def test_a_header_that_is_too_short_is_unreadable() -> None:
    header = b"\0\0\0\x04IHDRabcd" + struct.pack(">I", zlib.crc32(b"IHDRabcd"))
    end = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    with pytest.raises(Unreadable, match="header"):
        inspect(b"\x89PNG\r\n\x1a\n" + header + end)


def test_random_bytes_after_a_true_start_never_break_the_reader() -> None:
    dice = random.Random(1)
    starts = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\x00\x00\x00\x00WEBP", b"\0\0\0\x0cftypheic")
    for start in starts:
        for _ in range(300):
            with pytest.raises((Unreadable, TooLarge)):
                inspect(start + dice.randbytes(dice.randrange(200)))


def test_damage_anywhere_in_a_heic_never_breaks_the_reader() -> None:
    whole = picture("HEIF")
    dice = random.Random(2)
    for _ in range(500):
        content = bytearray(whole)
        content[dice.randrange(len(content))] = dice.randrange(256)
        with contextlib.suppress(Unreadable, TooLarge):
            inspect(bytes(content))
