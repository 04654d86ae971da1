"""Judges a photo by its bytes, without decoding the pixels: what it is, how large, and whether it is whole.

Header and structure are enough to stop a text file, a truncated upload or a decompression bomb before a GPU is paid
for, and need no native library in the function. The training container decodes every picture before it loads a model.
Formats: PNG (ISO 15948), JPEG (ITU T.81), WebP (Google's RIFF container specification), HEIC (ISO 23008-12, in boxes of
ISO 14496-12).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from contracts.training import MAX_ASPECT_RATIO, MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, MIN_IMAGE_SIDE

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset([0x01, *range(0xD0, 0xD8)])
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1")
_FULL_BOX = 4  # bytes of version and flags, before what is inside


class Unreadable(Exception):
    """The bytes are no whole picture; the message says why."""


class TooLarge(Exception):
    """The picture would take too much memory; the message says how large it is."""


@dataclass(frozen=True)
class ImageFacts:
    format: str
    width: int
    height: int


def inspect(content: bytes) -> ImageFacts:
    """Raises Unreadable or TooLarge."""
    if len(content) > MAX_IMAGE_BYTES:
        raise TooLarge(f"{len(content) // 2**20} MiB; at most {MAX_IMAGE_BYTES // 2**20} MiB")
    try:
        facts = _read(content)
    except struct.error as error:
        raise Unreadable("its header is damaged") from error
    if facts.width * facts.height > MAX_IMAGE_PIXELS:
        limit = MAX_IMAGE_PIXELS // 1_000_000
        raise TooLarge(f"{facts.width}×{facts.height} pixels; at most {limit} million")
    if facts.width < 1 or facts.height < 1:
        raise Unreadable("it has no pixels")
    if max(facts.width, facts.height) > MAX_ASPECT_RATIO * min(facts.width, facts.height):
        raise TooLarge(
            f"{facts.width}×{facts.height} pixels; the longer side at most {MAX_ASPECT_RATIO} times the shorter"
        )
    if min(facts.width, facts.height) < MIN_IMAGE_SIDE:
        raise Unreadable(f"{facts.width}×{facts.height} pixels show nothing; each side needs {MIN_IMAGE_SIDE}")
    return facts


def _read(content: bytes) -> ImageFacts:
    if content.startswith(PNG_SIGNATURE):
        return _png(content)
    if content.startswith(b"\xff\xd8\xff"):
        return _jpeg(content)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return _webp(content)
    if content[4:8] == b"ftyp" and content[8:12] in _HEIC_BRANDS:
        return _heic(content)
    if not content:
        raise Unreadable("the file is empty")
    raise Unreadable("its content is neither PNG, JPEG, WebP nor HEIC")


def _heic(content: bytes) -> ImageFacts:
    """The size of the primary item: beside it, phones store tiles, thumbnails and depth maps."""
    file = dict(_boxes(content))
    if not {b"meta", b"mdat"} <= file.keys():
        raise Unreadable("the HEIC is damaged (a box is missing)")
    meta = dict(_boxes(file[b"meta"][_FULL_BOX:]))
    iprp = dict(_boxes(meta.get(b"iprp", b"")))
    properties = list(_boxes(iprp.get(b"ipco", b"")))
    primary = int.from_bytes(meta.get(b"pitm", b"")[_FULL_BOX:], "big")
    own = dict(properties[i - 1] for i in _associated(iprp.get(b"ipma", b""), primary) if 0 < i <= len(properties))
    if b"ispe" not in own:
        raise Unreadable("the HEIC holds no picture")
    width, height = struct.unpack_from(">II", own[b"ispe"], _FULL_BOX)
    if b"clap" in own:  # encoders pad to whole blocks, and say here what is the picture
        clean_width, over_width, clean_height, over_height = struct.unpack_from(">4I", own[b"clap"])
        width, height = clean_width // max(1, over_width), clean_height // max(1, over_height)
    return ImageFacts("heic", width, height)


def _associated(ipma: bytes, wanted: int) -> list[int]:
    """Places, counted from 1, of an item's properties among all."""
    if len(ipma) < 8:
        return []
    wide_item, wide_place = ipma[0] >= 1, ipma[3] & 1
    (entries,) = struct.unpack_from(">I", ipma, 4)
    position = 8
    for _ in range(entries):
        item, count = struct.unpack_from(">IB" if wide_item else ">HB", ipma, position)
        position += 5 if wide_item else 3
        size = 2 if wide_place else 1
        if item == wanted:
            places = struct.unpack_from(f">{count}{'H' if wide_place else 'B'}", ipma, position)
            return [place & (0x7FFF if wide_place else 0x7F) for place in places]
        position += size * count
    return []


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, body) of each box."""
    position = 0
    while position < len(content):
        size, kind = struct.unpack_from(">I4s", content, position)
        header = 8
        if size == 1:  # the real size follows
            (size,) = struct.unpack_from(">Q", content, position + 8)
            header = 16
        elif size == 0:  # to the end
            size = len(content) - position
        if size < header or position + size > len(content):
            raise Unreadable("the HEIC is cut short")
        yield kind, content[position + header : position + size]
        position += size


def _png(content: bytes) -> ImageFacts:
    width = height = 0
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, position)
        body = content[position + 8 : position + 8 + length]
        end = position + 12 + length
        if end > len(content):
            break
        if zlib.crc32(kind + body) != struct.unpack_from(">I", content, end - 4)[0]:
            raise Unreadable("the PNG is damaged (a checksum does not match)")
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", body)
        if kind == b"IEND":
            return ImageFacts("png", width, height)
        position = end
    raise Unreadable("the PNG is cut short")


def _jpeg(content: bytes) -> ImageFacts:
    width = height = 0
    position = 2
    while position + 2 <= len(content):
        if content[position] != 0xFF:
            raise Unreadable("the JPEG is damaged (a marker is missing)")
        marker = content[position + 1]
        position += 2
        if marker == 0xFF:  # fill byte
            position -= 1
        elif marker == _END_OF_IMAGE:
            if not width:
                raise Unreadable("the JPEG holds no picture")
            return ImageFacts("jpeg", width, height)
        elif marker not in _WITHOUT_LENGTH:
            if position + 2 > len(content):
                break
            (length,) = struct.unpack_from(">H", content, position)
            if marker in _START_OF_FRAME and position + 7 <= len(content):
                height, width = struct.unpack_from(">HH", content, position + 3)
            position += length
            if marker == _START_OF_SCAN:
                position = _end_of_scan(content, position)
    raise Unreadable("the JPEG is cut short")


def _end_of_scan(content: bytes, position: int) -> int:
    """Entropy-coded data ends at the first 0xFF that is followed by neither 0x00 nor a restart marker."""
    while True:
        position = content.find(b"\xff", position)
        if position < 0 or position + 1 >= len(content):
            return len(content)
        if content[position + 1] != 0x00 and not 0xD0 <= content[position + 1] <= 0xD7:
            return position
        position += 2


def _webp(content: bytes) -> ImageFacts:
    (riff_size,) = struct.unpack_from("<I", content, 4)
    if len(content) < riff_size + 8 or len(content) < 30:
        raise Unreadable("the WebP is cut short")
    kind = content[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(content[24:27], "little")
        height = 1 + int.from_bytes(content[27:30], "little")
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        width, height = (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 26))
    else:
        raise Unreadable("the WebP is damaged (unknown first chunk)")
    return ImageFacts("webp", width, height)
