"""The example datasets: what they hold, and that Toyworld draws them so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from contracts.training import DatasetInfo
from dreamdrop import demo

ROOT = Path(__file__).parents[2]
ROBOT = ROOT / "examples/datasets/robot"
DATASETS = sorted(path for path in ROBOT.parent.iterdir() if path.is_dir())


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda dataset: dataset.name)
def test_an_example_dataset_has_five_photos_and_leaves_the_training_to_the_base_model(dataset: Path) -> None:
    photos = demo.photos_of(dataset)
    assert len(photos) == 5
    assert {photo.media_type for photo in photos} == {"image/png", "image/jpeg"}
    info = DatasetInfo.parse((dataset / "dataset_info.json").read_bytes())
    assert "sks" in info.instance_prompt
    assert info.class_prompt == info.instance_prompt.replace("sks ", "")
    assert info.hyperparameters.model_fields_set == set()


def test_there_are_twelve_example_datasets_and_a_stray_file() -> None:
    assert len(DATASETS) == 12
    assert ROBOT in DATASETS
    assert (ROBOT / "notes.txt").is_file()


def test_the_example_photos_are_what_toyworld_draws(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "toyworld.subjects", str(tmp_path)], cwd=ROOT, check=True)
    drawn = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")}
    examples = ROOT / "examples/datasets"
    assert drawn == {path.relative_to(examples) for path in examples.rglob("*.*")} - {Path("robot/notes.txt")}
    for path in drawn:
        if path.suffix == ".json":
            assert (examples / path).read_bytes() == (tmp_path / path).read_bytes()
        else:
            with Image.open(examples / path) as committed, Image.open(tmp_path / path) as new:
                difference = ImageChops.difference(committed.convert("RGB"), new.convert("RGB"))
                assert ImageStat.Stat(difference).mean < [1.0] * 3, path  # decoders of JPEG round differently
