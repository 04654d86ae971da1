"""The local default base model: nothing but what its own manifest describes is imported, and never over another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.artifact import BaseModelManifest, checksum_of
from contracts.errors import InvalidBaseModel, InvalidRequest
from contracts.storage import BASE_MODELS
from dreamdrop.base_models import describe_directory, imported_manifest
from dreamdrop.default_base import ensure_imported, read_finished
from dreamdrop.deployment import Deployment


@pytest.fixture
def finished(model: Path) -> Path:
    """With the manifest that its maker wrote, which need not know of defaults."""
    finish(model)
    return model


def finish(directory: Path, **change: Any) -> None:
    (directory / "training_defaults.json").write_text('{"lora": {"max_steps": 300}}')
    described = describe_directory(directory, "toyworld", "drawn by code", "Apache-2.0").model_dump()
    described |= {"training_defaults": {}, **change}
    (directory / "manifest.json").write_text(json.dumps(described))


def keys(deployment: Deployment) -> Iterator[str]:
    listed = deployment.client("s3").list_objects_v2(Bucket="data", Prefix=BASE_MODELS)
    return (item["Key"] for item in listed.get("Contents", []))


def test_it_is_imported_as_its_own_manifest_names_it_with_the_defaults_of_its_files(
    deployment: Deployment, finished: Path
) -> None:
    ensure_imported(deployment, finished, read_finished(finished))
    imported = imported_manifest(deployment, "toyworld")
    assert imported is not None
    assert (imported.source, imported.licence) == ("drawn by code", "Apache-2.0")
    assert imported.training_defaults.lora.max_steps == 300
    assert {f"base-models/toyworld/{file.path}" for file in imported.files} < set(keys(deployment))


def test_a_second_time_touches_nothing(deployment: Deployment, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_imported(deployment, finished, read_finished(finished))
    monkeypatch.setattr("dreamdrop.default_base.import_directory", pytest.fail)
    ensure_imported(deployment, finished, read_finished(finished))


@pytest.mark.parametrize("damage", ["changed", "added", "removed"])
def test_a_file_that_is_not_as_described_is_refused_by_name(finished: Path, damage: str) -> None:
    file = finished / "tokenizer/vocab.json"
    if damage == "changed":
        file.write_text("[]")
    elif damage == "added":
        file = finished / "tokenizer/more.json"
        file.write_text("{}")
    else:
        file.unlink()
    with pytest.raises(InvalidBaseModel, match=f"tokenizer/{file.name}") as caught:
        read_finished(finished)
    assert "make toyworld" in caught.value.cure


def test_a_directory_that_is_missing_or_was_never_finished_names_the_cure(finished: Path, tmp_path: Path) -> None:
    (finished / "manifest.json").write_text('{"id": "toyworld"}')
    with pytest.raises(InvalidBaseModel, match="files: missing"):
        read_finished(finished)
    (finished / "manifest.json").unlink()
    for directory in (finished, tmp_path / "nowhere"):
        with pytest.raises(InvalidBaseModel, match="no finished base model") as caught:
            read_finished(directory)
        assert "make toyworld" in caught.value.cure


def test_other_weights_under_the_same_id_are_refused_and_under_another_stand_beside(
    deployment: Deployment, finished: Path
) -> None:
    """Subjects that were trained on the former ones are drawn with the former ones."""
    former = read_finished(finished)
    ensure_imported(deployment, finished, former)
    (finished / "tokenizer/vocab.json").write_text("[]")
    finish(finished)
    with pytest.raises(InvalidRequest, match="toyworld is imported already") as caught:
        ensure_imported(deployment, finished, read_finished(finished))
    assert "make clean" in caught.value.cure
    finish(finished, id="toyworld-2")
    ensure_imported(deployment, finished, read_finished(finished))
    assert imported_manifest(deployment, "toyworld") == former
    assert imported_manifest(deployment, "toyworld-2") is not None


def test_a_manifest_of_before_the_defaults_is_still_read() -> None:
    old = {"id": "sd", "files": [], "checksum": checksum_of([]), "resolution": 512, "source": "s", "licence": "l"}
    read = BaseModelManifest.model_validate(old)
    assert read.training_defaults.lora.model_fields_set == set()
    assert read.generation_defaults.model_dump(exclude_none=True) == {}
