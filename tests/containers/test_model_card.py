"""The model card that a real training leaves."""

from __future__ import annotations

import shutil
from pathlib import Path

from contracts.artifact import BaseModelManifest
from tests.containers.conftest import INSTANCE_PROMPT, write_manifest
from tests.containers.training_parts import artifact_of, run_job
from training_container.model_card import MODEL_CARD


def test_the_card_is_listed_and_the_same_training_writes_the_same(
    tmp_path: Path, tiny_base_model: Path, imported_base_model: BaseModelManifest, small_dataset: Path
) -> None:
    jobs = [run_job(tmp_path / name, tiny_base_model, small_dataset, max_steps=2) for name in ("one", "two")]
    one, two = ((job.model / MODEL_CARD).read_bytes() for job in jobs)
    assert one == two
    assert MODEL_CARD in {entry.path for entry in artifact_of(jobs[0]).files}
    text = one.decode()
    for said in (INSTANCE_PROMPT, imported_base_model.checksum, "on 4 photos", "- steps: 2", "samples/sample-1.png"):
        assert said in text


def test_a_full_model_has_its_own_card_and_not_its_base_models(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    base = shutil.copytree(tiny_base_model, tmp_path / "base")
    (base / MODEL_CARD).write_text("the card of the base model")
    (base / "LICENSE").write_text("the licence of the base model")
    write_manifest(base)
    job = run_job(tmp_path / "job", base, small_dataset, method="full", max_steps=1)
    assert "# DreamBooth" in (job.model / MODEL_CARD).read_text()
    assert (job.model / "LICENSE").read_text() == "the licence of the base model"
