"""Importing a base model: what is refused, and what lies in the bucket afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest

from contracts.artifact import BaseModelManifest, checksum_of
from contracts.errors import InvalidBaseModel, InvalidRequest
from dreamdrop.base_models import describe_directory, import_directory, imported_manifest, native_resolution
from dreamdrop.deployment import Deployment
from tests.unit.conftest import SAFETENSORS


def describe(model: Path) -> BaseModelManifest:
    return describe_directory(model, "tiny", "here", "Apache-2.0")


def put_in(deployment: Deployment, model: Path) -> list[str]:
    return import_directory(deployment, model, describe(model), lambda *_: None)


def test_the_manifest_names_every_file_but_the_hidden_ones(model: Path) -> None:
    manifest = describe(model)
    assert {file.path for file in manifest.files} == {
        "model_index.json",
        "unet/config.json",
        "vae/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/diffusion_pytorch_model.safetensors",
        "tokenizer/vocab.json",
    }
    assert manifest.checksum == checksum_of(manifest.files)
    assert manifest.resolution == 512


@pytest.mark.parametrize(
    ("unet", "vae", "pixels"),
    [
        ({"sample_size": 96}, {"block_out_channels": [1, 1, 1, 1]}, 768),
        ({"sample_size": 16}, {"block_out_channels": [1, 1, 1]}, 64),
    ],
)
def test_the_resolution_is_the_latent_side_times_the_vae_factor(unet: Any, vae: Any, pixels: int) -> None:
    assert native_resolution(unet, vae) == pixels


@pytest.mark.parametrize("name", ["unet/model.bin", "v1.ckpt", "text_encoder/pytorch_model.PT", "x.pickle", "y.pkl"])
def test_a_file_that_may_run_code_is_refused_by_name(model: Path, name: str) -> None:
    (model / name).write_bytes(b"x")
    with pytest.raises(InvalidBaseModel, match=name) as caught:
        describe(model)
    assert "safe_serialization" in caught.value.cure


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04 a zip archive, as torch.save writes", SAFETENSORS[:8] + b"\x80\x04", b""]
)
def test_a_pickle_that_is_called_safetensors_is_refused(model: Path, content: bytes) -> None:
    (model / "unet/diffusion_pytorch_model.safetensors").write_bytes(content)
    with pytest.raises(InvalidBaseModel, match="not in the safetensors format"):
        describe(model)


def test_a_link_out_of_the_directory_is_refused_and_one_inside_is_not(model: Path, tmp_path: Path) -> None:
    (model / "tokenizer/alias.json").symlink_to(model / "tokenizer/vocab.json")
    assert "tokenizer/alias.json" in {file.path for file in describe(model).files}
    (tmp_path / "secret.json").write_text("{}")
    (model / "tokenizer/away.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(InvalidBaseModel, match=r"away\.json"):
        describe(model)


@pytest.mark.parametrize("missing", ["model_index.json", "unet/config.json", "vae/diffusion_pytorch_model.safetensors"])
def test_an_incomplete_directory_is_refused(model: Path, missing: str) -> None:
    (model / missing).unlink()
    with pytest.raises(InvalidBaseModel):
        describe(model)


def test_the_models_own_defaults_are_read_and_survive_the_bucket(deployment: Deployment, model: Path) -> None:
    (model / "training_defaults.json").write_text('{"lora": {"learning_rate": 0.001, "max_steps": 300}}')
    (model / "generation_defaults.json").write_text('{"guidance_scale": 4.0, "scheduler": "ddim"}')
    put_in(deployment, model)
    imported = imported_manifest(deployment, "tiny")
    assert imported is not None
    assert imported.training_defaults.lora.model_dump(exclude_unset=True) == {"learning_rate": 0.001, "max_steps": 300}
    assert imported.training_defaults.full.model_fields_set == set()
    assert imported.generation_defaults.model_dump(exclude_none=True) == {"guidance_scale": 4.0, "scheduler": "ddim"}
    assert {"training_defaults.json", "generation_defaults.json"} < {file.path for file in imported.files}


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("training_defaults.json", '{"lora": {"steps": 3}}', "lora.steps: unknown field"),
        ("training_defaults.json", '{"lora": {"max_steps": 0}}', "lora.max_steps: .* greater than or equal to 1"),
        ("training_defaults.json", '{"full": {"learning_rate": 2}}', "full.learning_rate: .* less than or equal to 1"),
        ("training_defaults.json", '{"full": {"method": "full"}}', "full: .*leave it out"),
        ("training_defaults.json", '{"dora": {}}', "dora: unknown field"),
        ("training_defaults.json", "[]", "no JSON object"),
        (
            "generation_defaults.json",
            '{"num_inference_steps": 500}',
            "num_inference_steps: .* less than or equal to 200",
        ),
        ("generation_defaults.json", '{"seed": 5}', "seed: unknown field"),
        ("generation_defaults.json", "{", "cannot be read as JSON"),
    ],
)
def test_bad_defaults_are_refused_with_file_field_and_range(model: Path, file: str, content: str, named: str) -> None:
    (model / file).write_text(content)
    with pytest.raises(InvalidBaseModel, match=f"{file}.*{named}") as caught:
        describe(model)
    assert caught.value.cure


def test_an_unusable_id_is_refused(model: Path) -> None:
    with pytest.raises(InvalidRequest):
        describe_directory(model, "../escape", "here", "Apache-2.0")


def test_the_manifest_is_uploaded_last_and_reads_back(deployment: Deployment, model: Path) -> None:
    assert put_in(deployment, model)[-1] == "manifest.json"
    assert imported_manifest(deployment, "tiny") == describe(model)


def test_importing_twice_uploads_nothing_the_second_time(deployment: Deployment, model: Path) -> None:
    put_in(deployment, model)
    assert put_in(deployment, model) == []


def test_an_interrupted_import_uploads_only_what_is_missing(deployment: Deployment, model: Path) -> None:
    put_in(deployment, model)
    s3 = boto3.client("s3", region_name="us-east-1")
    for lost in ("manifest.json", "vae/config.json"):
        s3.delete_object(Bucket="data", Key=f"base-models/tiny/{lost}")
    assert put_in(deployment, model) == ["vae/config.json", "manifest.json"]


def test_an_id_whose_endpoint_would_be_that_of_another_is_refused(deployment: Deployment, model: Path) -> None:
    for name in ("sd-2.1", "sd-2", "sd-2.1"):
        import_directory(deployment, model, describe_directory(model, name, "here", "MIT"), lambda *_: None)
    with pytest.raises(InvalidRequest, match=r"sd-2-1 and sd-2\.1, which is imported"):
        import_directory(deployment, model, describe_directory(model, "sd-2-1", "here", "MIT"), lambda *_: None)


def test_an_id_that_is_taken_by_other_files_is_refused(deployment: Deployment, model: Path) -> None:
    put_in(deployment, model)
    (model / "tokenizer/vocab.json").write_text('{"changed": 1}')
    with pytest.raises(InvalidRequest, match="already"):
        put_in(deployment, model)


def test_progress_ends_at_the_whole(deployment: Deployment, model: Path) -> None:
    seen: list[tuple[int, int]] = []
    import_directory(deployment, model, describe(model), lambda _file, done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0
