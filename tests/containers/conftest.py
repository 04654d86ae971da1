"""What the container tests share: a tiny base model, the same as an import leaves it, and a small dataset."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tiny tensors only suffer from threads

from contracts.artifact import BaseModelManifest, FileEntry, checksum_of
from contracts.storage import DATASET_INFO, MANIFEST
from toyworld.tiny import RESOLUTION, build_tiny_base_model

INSTANCE_PROMPT = "a photo of sks toy"
CLASS_PROMPT = "a photo of a toy"


def write_manifest(directory: Path, model_id: str = "tiny") -> BaseModelManifest:
    """Describes a diffusers directory as an import does: manifest.json over every file in it."""
    files = [
        FileEntry(
            path=file.relative_to(directory).as_posix(),
            size=file.stat().st_size,
            sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        )
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    ]
    manifest = BaseModelManifest(
        id=model_id,
        files=files,
        checksum=checksum_of(files),
        resolution=RESOLUTION,
        source="randomly initialised by toyworld.tiny",
        licence="Apache-2.0",
    )
    (directory / MANIFEST).write_text(manifest.model_dump_json(indent=2))
    return manifest


def draw_toy(side: tuple[int, int], hue: int) -> Image.Image:
    """A coloured disc on a plain ground: structured enough to be learned."""
    width, height = side
    picture = Image.new("RGB", side, (30, 30 + hue % 60, 200))
    ImageDraw.Draw(picture).ellipse((width // 6, height // 6, width * 5 // 6, height * 5 // 6), (200, hue % 255, 40))
    return picture


@pytest.fixture(scope="session")
def tiny_base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers directory with manifest.json, as an imported base model is. Read-only by agreement."""
    directory = build_tiny_base_model(tmp_path_factory.mktemp("base-model") / "tiny")
    write_manifest(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_v_base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with v_prediction."""
    directory = build_tiny_base_model(tmp_path_factory.mktemp("base-model") / "tiny-v", prediction_type="v_prediction")
    write_manifest(directory, "tiny-v")
    return directory


@pytest.fixture(scope="session")
def imported_base_model(tiny_base_model: Path) -> BaseModelManifest:
    """The manifest of `tiny_base_model`."""
    return BaseModelManifest.model_validate_json((tiny_base_model / MANIFEST).read_bytes())


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photos of one toy and a dataset_info.json. Read-only by agreement."""
    directory = tmp_path_factory.mktemp("dataset")
    for index in range(4):
        draw_toy((96, 80), 60 * index).save(directory / f"photo-{index}.png")
    info = {"instance_prompt": INSTANCE_PROMPT, "class_prompt": CLASS_PROMPT}
    (directory / DATASET_INFO).write_text(json.dumps(info))
    return directory
