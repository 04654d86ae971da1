"""A folder of photos on its way into the bucket, which is moto's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contracts import errors
from dreamdrop.client import Client, files_to_drop
from dreamdrop.deployment import Deployment


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "robot"
    (folder / "class_data_dir").mkdir(parents=True)
    for name in ("dataset_info.json", "a.png", "zebra.png", "class_data_dir/c.png", "notes.txt"):
        (folder / name).write_text(name)
    return folder


def test_dropping_uploads_every_file_and_dataset_info_last(photos: Path, deployment: Deployment) -> None:
    keys = Client(deployment).drop(photos, "robot")
    assert keys[-1] == "datasets/robot/dataset_info.json"
    assert "datasets/robot/class_data_dir/c.png" in keys
    found = deployment.client("s3").list_objects_v2(Bucket=deployment.data_bucket)["Contents"]
    assert {item["Key"] for item in found} == set(keys)
    assert len(keys) == 5


def test_a_wrong_folder_or_name_is_refused_before_any_upload(
    deployment: Deployment, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(errors.InvalidSubjectName):
        Client(deployment).drop(photos, "Robot!")
    with pytest.raises(errors.InvalidRequest):
        files_to_drop(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.EmptyDataset):
        files_to_drop(tmp_path / "empty")


def test_a_file_is_told_as_such_and_not_by_its_name(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "README.md").touch()
    with pytest.raises(errors.InvalidRequest, match=r"README\.md is a file, not a folder"):
        Client(deployment).drop(tmp_path / "README.md", "README.md")


def test_a_folder_of_datasets_is_refused_by_the_names_of_its_folders(photos: Path) -> None:
    (photos.parent / "notes.txt").touch()
    with pytest.raises(errors.EmptyDataset, match=f"these folders in it do: {photos}\\.") as refused:
        files_to_drop(photos.parent)
    assert refused.value.cure.endswith(f"dreamdrop drop {photos}")


@pytest.mark.parametrize("added", ["dataset_info.json", "class_data_dir/c.png", "a.txt"])
def test_what_is_added_to_photos_that_were_dropped_before_may_come_without_any(tmp_path: Path, added: str) -> None:
    file = tmp_path / added
    file.parent.mkdir(exist_ok=True)
    file.touch()
    assert files_to_drop(tmp_path) == [file]


def test_a_name_that_is_no_text_is_refused(photos: Path) -> None:
    Path(os.fsdecode(os.fsencode(photos) + b"/\xff.png")).write_bytes(b"x")
    with pytest.raises(errors.InvalidFileName, match=r"udcff\.png"):
        files_to_drop(photos)


def test_a_link_out_of_the_folder_is_not_uploaded(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (photos / "b.png").symlink_to(tmp_path / "secret")
    with pytest.raises(errors.InvalidFileName, match=r"b\.png"):
        files_to_drop(photos)
