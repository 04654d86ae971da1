"""What the container tests share: a tiny base model, the same as an import leaves it, and a small dataset."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tiny tensors only suffer from threads

from contracts.artifact import BaseModelManifest, FileEntry, checksum_of
from contracts.storage import DATASET_INFO, MANIFEST
from inference_container.generator import Generator
from tests.containers.generators import VERSION, make_generator
from tests.containers.inference_parts import describe_files, make_full, make_lora, publish, s3_server, version_manifest
from tests.containers.training_parts import run_job
from toyworld.tiny import RESOLUTION, build_tiny_base_model
from training_container.platform import Platform

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


@pytest.fixture(scope="session")
def lora_job(tmp_path_factory: pytest.TempPathFactory, tiny_base_model: Path, small_dataset: Path) -> Platform:
    """Read-only by agreement."""
    base = tmp_path_factory.mktemp("lora") / "job"
    return run_job(base, tiny_base_model, small_dataset, max_steps=24, lora_rank=8, lora_alpha=2)


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    with s3_server() as (_, client):
        yield client


@pytest.fixture(scope="module")
def published(tiny_base_model: Path, tmp_path_factory: pytest.TempPathFactory, s3: Any) -> dict[str, Path]:
    """rex and tom: LoRA. mia and uma: LoRA of UNet and text encoder. pip: full."""
    root = tmp_path_factory.mktemp("subjects")
    directories = {
        "rex": make_lora(tiny_base_model, root / "rex", seed=1),
        "tom": make_lora(tiny_base_model, root / "tom", seed=2),
        "mia": make_lora(tiny_base_model, root / "mia", seed=3, text_encoder=True, std=0.2),
        "uma": make_lora(tiny_base_model, root / "uma", seed=5, text_encoder=True, std=0.2),
        "pip": make_full(tiny_base_model, root / "pip", seed=4),
    }
    for subject, directory in directories.items():
        publish(s3, version_manifest(tiny_base_model, subject, VERSION, describe_files(directory)), directory)
    return directories


@pytest.fixture(scope="module")
def generator(
    tiny_base_model: Path, published: dict[str, Path], s3: Any, tmp_path_factory: pytest.TempPathFactory
) -> Generator:
    return make_generator(tiny_base_model, s3, tmp_path_factory.mktemp("cache"))
