"""The base models that are timed, as an import leaves them: directories with a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from contracts.storage import MANIFEST
from dreamdrop.base_models import describe_directory

ModelName = Literal["sd21/4", "toyworld", "sd21"]

TOYWORLD = Path(__file__).resolve().parents[1] / "toyworld" / "base_model"


def prepare_model(folder: Path, name: ModelName) -> Path:
    if name == "toyworld":
        return TOYWORLD
    from benchmarks.random_models import build_sd21

    directory = folder / name.replace("/", "-")
    if name == "sd21":
        build_sd21(directory, resolution=512)
    else:
        build_sd21(directory, resolution=128, shrink=4, text_layers=2)
    manifest = describe_directory(directory, "benchmark", "random weights", "Apache-2.0")
    (directory / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
    return directory
