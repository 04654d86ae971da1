"""Photos as people send them: turned, transparent, grey, broken, and between files that are no photos."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from contracts.errors import EmptyDataset, ImageTooLarge, InvalidBaseModel, TooManyImages, UnreadableImage
from contracts.training import MAX_INSTANCE_IMAGES
from tests.containers.training_parts import build_job
from training_container.dreambooth.dataset import (
    CropRule,
    Frame,
    Picture,
    frame_picture,
    image_files,
    open_picture,
    read_class_pictures,
    read_instance_pictures,
)
from training_container.dreambooth.prior import generate_class_images
from training_container.dreambooth.sampling import Drawn
from training_container.photos import read_photos
from training_container.settings import read_settings

RULE = CropRule(resolution=32, center=True, seed=0)
PROMPT = "a photo of sks toy"
QUARTERS = {(0, 0): (250, 10, 10), (1, 0): (10, 250, 10), (0, 1): (10, 10, 250), (1, 1): (250, 250, 10)}


def framed(picture: Image.Image, rule: CropRule, frame: Frame | None = None) -> Picture:
    wanted = frame or rule.frame_for(picture.size)
    return frame_picture(picture, 0, rule, wanted, name="a.png", sha256="", prompt=PROMPT)


def four_quarters(size: int = 32) -> Image.Image:
    half = size // 2
    picture = Image.new("RGB", (size, size))
    for (column, row), colour in QUARTERS.items():
        picture.paste(colour, (column * half, row * half, (column + 1) * half, (row + 1) * half))
    return picture


def as_bytes(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def centre_of(picture: Image.Image) -> tuple[int, ...]:
    return tuple(int(v) for v in np.asarray(picture.convert("RGB"))[picture.height // 2, picture.width // 2])


UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_upright_whatever_its_exif_orientation(orientation: int) -> None:
    upright = four_quarters()
    stored = upright.transpose(UNDO[orientation]) if orientation in UNDO else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_picture(as_bytes(stored, "PNG", exif=exif), "photo.png")
    assert np.array_equal(np.asarray(opened), np.asarray(upright))


@pytest.mark.parametrize(
    ("picture", "kind", "expected"),
    [
        (Image.new("RGBA", (32, 32), (200, 0, 0, 0)), "PNG", (255, 255, 255)),
        (Image.new("RGBA", (32, 32), (200, 0, 0, 255)), "WEBP", (200, 0, 0)),
        (Image.new("LA", (32, 32), (0, 255)), "PNG", (0, 0, 0)),
        (Image.new("L", (32, 32), 90), "PNG", (90, 90, 90)),
        (Image.new("RGB", (32, 32), (0, 0, 200)).convert("P"), "PNG", (0, 0, 204)),
        (Image.new("1", (32, 32), 1), "PNG", (255, 255, 255)),
        (Image.fromarray(np.full((32, 32), 257 * 100, dtype=np.uint16)), "PNG", (100, 100, 100)),
        (Image.new("CMYK", (32, 32), (255, 255, 0, 0)), "JPEG", (0, 0, 255)),
        (Image.new("RGB", (32, 32), (0, 0, 200)), "HEIF", (0, 0, 200)),
    ],
    ids=["transparent", "opaque-webp", "grey-alpha", "grey", "palette", "bilevel", "16-bit", "cmyk", "heic"],
)
def test_every_colour_mode_becomes_rgb(picture: Image.Image, kind: str, expected: tuple[int, ...]) -> None:
    opened = open_picture(as_bytes(picture, kind), "photo")
    assert opened.mode == "RGB"
    assert np.allclose(centre_of(opened), expected, atol=6)


def test_a_turned_heic_is_upright() -> None:
    stored, exif = four_quarters(64).transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    opened = open_picture(as_bytes(stored, "HEIF", exif=exif.tobytes(), quality=95), "photo.heic")
    assert np.abs(np.asarray(opened, dtype=int) - np.asarray(four_quarters(64), dtype=int)).mean() < 8


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    content = as_bytes(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert centre_of(open_picture(content, "a.webp")) == (250, 0, 0)


def test_junk_and_hidden_files_and_folders_are_no_pictures(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg"):
        four_quarters().save(tmp_path / name)
    for name in (".DS_Store", "Thumbs.db", "._a.jpeg", "notes.txt", "dataset_info.json", ".hidden.png"):
        (tmp_path / name).write_bytes(b"junk")
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in image_files(tmp_path)] == ["a.jpeg", "b.PNG"]


def test_every_bad_file_is_named_in_one_error(tmp_path: Path) -> None:
    whole = as_bytes(four_quarters(256), "JPEG")
    (tmp_path / "good.jpg").write_bytes(whole)
    (tmp_path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("I am no picture")
    (tmp_path / "empty.webp").write_bytes(b"")
    with pytest.raises(UnreadableImage) as caught:
        read_instance_pictures(tmp_path, PROMPT, RULE)
    assert all(name in str(caught.value) for name in ("truncated.jpg", "text.png", "empty.webp"))
    assert "good.jpg" not in str(caught.value)


def test_a_gif_that_calls_itself_png_is_refused_by_content(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(as_bytes(four_quarters(), "GIF"))
    with pytest.raises(UnreadableImage, match=r"photo\.png is not a PNG"):
        read_instance_pictures(tmp_path, PROMPT, RULE)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than the file could hold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb(side, side))
    with pytest.raises(ImageTooLarge, match=r"bomb\.png"):
        read_instance_pictures(tmp_path, PROMPT, RULE)


def test_no_photo_and_too_many_photos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataset):
        read_instance_pictures(tmp_path, PROMPT, RULE)
    content = as_bytes(four_quarters(8), "PNG")
    for number in range(MAX_INSTANCE_IMAGES + 1):
        (tmp_path / f"{number}.png").write_bytes(content)
    with pytest.raises(TooManyImages):
        read_instance_pictures(tmp_path, PROMPT, RULE)


def test_a_caption_beside_a_photo_replaces_the_prompt(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        four_quarters().save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("\ufeffsks toy on a beach\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("  \n")
    pictures = read_instance_pictures(tmp_path, PROMPT, RULE)
    assert [picture.prompt for picture in pictures] == ["sks toy on a beach", PROMPT, PROMPT]


def test_class_pictures_are_counted_without_junk(tmp_path: Path) -> None:
    folder = tmp_path / "class_data_dir"
    folder.mkdir()
    for name in ("1.png", "2.png", "3.png"):
        four_quarters().save(folder / name)
    (folder / ".DS_Store").write_bytes(b"")
    assert len(read_class_pictures(tmp_path, "a toy", 100, RULE, [(32, 32)])) == 3
    assert [picture.name for picture in read_class_pictures(tmp_path, "a toy", 2, RULE, [(32, 32)])] == [
        "1.png",
        "2.png",
    ]


def test_a_centre_crop_is_the_middle_and_random_crops_are_seeded() -> None:
    wide = Image.new("RGB", (96, 32), (255, 0, 0))
    wide.paste((0, 0, 255), (32, 0, 64, 32))
    (centre,) = framed(wide, RULE).crops
    assert centre.size == (32, 32)
    assert centre.getcolors() == [(1024, (0, 0, 255))]
    spread = CropRule(32, False, seed=1)
    first, again = framed(wide, spread).crops, framed(wide, spread).crops
    assert len(first) == 4
    assert [crop.tobytes() for crop in first] == [crop.tobytes() for crop in again]
    assert len({crop.tobytes() for crop in first}) > 1


def test_mirror_images_are_extra_crops() -> None:
    picture = Image.new("RGB", (32, 32), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 0, 16, 32))
    plain, mirrored = framed(picture, CropRule(32, True, 0, mirrored=True)).crops
    assert (plain.getpixel((0, 0)), plain.getpixel((31, 0))) == ((0, 0, 255), (255, 0, 0))
    assert (mirrored.getpixel((0, 0)), mirrored.getpixel((31, 0))) == ((255, 0, 0), (0, 0, 255))


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (33, 32), (5, 5)])
def test_any_shape_gives_the_training_size(size: tuple[int, int]) -> None:
    for center in (True, False):
        crops = framed(Image.new("RGB", size), CropRule(32, center, 0)).crops
        assert {crop.size for crop in crops} == {(32, 32)}


def test_a_fresh_crop_may_be_anywhere_and_a_centre_crop_stays_in_the_middle() -> None:
    wide = Image.new("RGB", (96, 32))
    wide.putdata([(column, 0, 0) for _ in range(32) for column in range(96)])
    anywhere = framed(wide, CropRule(32, False, 0))
    assert {anywhere.fresh_crop(draw).getpixel((0, 0)) for draw in range(200)} == {(left, 0, 0) for left in range(65)}
    middle = framed(wide, RULE)
    assert {middle.fresh_crop(draw).getpixel((0, 0)) for draw in range(50)} == {(32, 0, 0)}
    turned = framed(wide, CropRule(32, True, 0, mirrored=True))
    assert {turned.fresh_crop(draw).getpixel((0, 0)) for draw in range(50)} == {(32, 0, 0), (63, 0, 0)}


@pytest.mark.parametrize(
    ("size", "frame"),
    [
        ((512, 512), (512, 512)),
        ((600, 580), (512, 512)),
        ((3000, 2000), (640, 384)),
        ((2000, 3000), (384, 640)),
        ((9000, 1000), (640, 384)),
    ],
)
def test_a_photo_goes_into_the_bucket_of_its_shape(size: tuple[int, int], frame: Frame) -> None:
    rule = CropRule(512, False, 0, multiple=64)
    assert rule.frame_for(size) == frame
    assert rule.frames[0] == (512, 512)
    for width, height in rule.frames:
        assert (width % 64, height % 64) == (0, 0)
        assert width * height <= 512 * 512
        assert max(width, height) <= 2 * min(width, height)


def test_a_bucketed_photo_loses_little_and_a_square_one_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (96, 64), (9, 9, 9)).save(tmp_path / "wide.png")
    four_quarters(64).save(tmp_path / "square.png")
    rule = CropRule(32, False, 0, multiple=8)
    square, wide = read_instance_pictures(tmp_path, PROMPT, rule)
    assert square.frame == (32, 32)
    assert {crop.size for crop in wide.crops} == {wide.frame}
    assert wide.frame[0] > wide.frame[1]
    assert wide.scaled.width - wide.frame[0] + wide.scaled.height - wide.frame[1] <= 8


def test_class_pictures_come_in_every_frame_that_is_trained(tmp_path: Path) -> None:
    (tmp_path / "class_data_dir").mkdir()
    four_quarters().save(tmp_path / "class_data_dir" / "1.png")
    frames: list[Frame] = [(32, 32), (40, 24)]
    pictures = read_class_pictures(tmp_path, "a toy", 5, RULE, frames)
    assert [picture.frame for picture in pictures] == frames
    assert [picture.crops[0].size for picture in pictures] == frames


@pytest.mark.parametrize(("finite", "contrast"), [(False, 0.5), (True, 0.001)])
def test_a_blank_class_picture_is_neither_kept_nor_trained_on(tmp_path: Path, finite: bool, contrast: float) -> None:
    class Blank:
        def draw(self, _prompt: Tensor, _empty: Tensor, _purpose: str, numbers: Sequence[int]) -> list[Drawn]:
            return [Drawn(Image.new("RGB", (8, 8)), finite, contrast) for _ in numbers]

    none = torch.zeros(1, 1, 1)
    with pytest.raises(InvalidBaseModel, match="blank class pictures") as caught:
        generate_class_images(
            tmp_path / "drawn", tmp_path / "kept", 1, 1, cast(Any, Blank()), none, none, lambda _done: None
        )
    assert "class_data_dir" in caught.value.cure
    assert not list((tmp_path / "drawn").iterdir())


def test_files_that_are_no_pictures_are_named_in_one_line(
    tmp_path: Path, small_dataset: Path, tiny_base_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = build_job(tmp_path / "job", tiny_base_model, small_dataset, resolution=32)
    (job.dataset / "photo-1.txt").write_text("a caption")
    (job.dataset / "class_data_dir").mkdir()
    caplog.set_level("INFO", logger="training")
    settings = read_settings(job.dataset, job.hyperparameters())
    read_photos(job, settings)
    assert not caplog.records
    for name in (".DS_Store", "notes.pdf", "class_data_dir/Thumbs.db", *(f"z{number}.txt" for number in range(9))):
        (job.dataset / name).write_bytes(b"junk")
    assert len(read_photos(job, settings).instance) == 4
    (line,) = caplog.messages
    assert "'.DS_Store', 'notes.pdf', 'z0.txt'" in line and "'z7.txt'" in line and line.endswith(", ...")
    assert "z8.txt" not in line and "caption" not in line and "photo-1" not in line
