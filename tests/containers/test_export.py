"""Trained subjects for other programs: kohya's LoRA files, one-file checkpoints, and the command that writes them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import boto3
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from moto import mock_aws
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from contracts.artifact import LEARNED_WORDS, LORA_WEIGHTS, WORD_IDS, WORD_ROWS, BaseModelManifest, VersionManifest
from contracts.errors import DreamdropError, InternalError, InvalidBaseModel, InvalidRequest, UnknownBaseModel
from contracts.storage import MANIFEST, base_model_prefix
from diffusion.files import read_text_encoder, read_unet
from diffusion.lora import LoraConv2d, LoraLinear, adapter_weights
from dreamdrop import cli
from dreamdrop.deployment import Deployment
from dreamdrop.export import Format, export
from dreamdrop.formats.adapter import Layer, Update, read_adapter
from dreamdrop.formats.exporting import write_checkpoint
from dreamdrop.formats.kohya import to_kohya, write_kohya
from tests.containers.conftest import write_manifest
from tests.containers.inference_parts import BUCKET, CREDENTIALS, describe_files, publish, version_manifest
from tests.containers.single_file_parts import aligned, build_small, draw
from training_container.dreambooth.lora import LoraSettings, add_adapters, save_adapters

VERSION = "0123456789ab-1"
FULL_VERSION = "0123456789ab-2"
RANK, ALPHA = 4, 2.0


@dataclass(frozen=True)
class Trained:
    base: Path
    adapter: Path
    picture: Image.Image  # of the model that was trained, before anything was saved


def train(base: Path, adapter: Path, targets: Literal["attention", "all"]) -> Trained:
    """Adapters on UNet and text encoder, saved as the trainer saves them; no rank equals its alpha."""
    settings = LoraSettings(RANK, ALPHA, targets)
    unet, text_encoder = read_unet(base / "unet"), read_text_encoder(base / "text_encoder")
    add_adapters(unet, text_encoder, settings, seed=0)
    generator = torch.Generator().manual_seed(1)
    for network in (unet, text_encoder):
        for name, weight in adapter_weights(network).items():
            if "lora_B" in name:
                weight.data = 0.05 * torch.randn(weight.shape, generator=generator)
    adapter.mkdir()
    save_adapters(adapter, unet, text_encoder, settings)
    pipeline = aligned(StableDiffusionPipeline.from_pretrained(base))
    for ours, theirs in ((unet, pipeline.unet), (text_encoder, pipeline.text_encoder)):
        call_beside(ours, theirs)
    return Trained(base, adapter, draw(pipeline))


def call_beside(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Their layers give what our adapted layers give: the adapters are called, not merged."""
    for path, layer in ours.named_modules():
        if isinstance(layer, LoraLinear | LoraConv2d):
            theirs.get_submodule(path).register_forward_hook(
                lambda _module, inputs, _output, layer=layer: layer(*inputs)
            )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    root = tmp_path_factory.mktemp("export")
    versions = {1: build_small(root / "v1", 1), 2: build_small(root / "v2", 2)}
    write_manifest(versions[1], "small")
    return {
        "1-all": train(versions[1], root / "lora-1-all", "all"),
        "2-attention": train(versions[2], root / "lora-2-attention", "attention"),
    }


def difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("model", ["1-all", "2-attention"])
def test_a_kohya_file_draws_what_the_trained_model_draws(
    tmp_path: Path, trained: dict[str, Trained], model: str, dtype: Literal["fp32", "fp16"]
) -> None:
    was = trained[model]
    write_kohya(was.adapter / LORA_WEIGHTS, tmp_path / "lora.safetensors", dtype)
    pipeline = aligned(StableDiffusionPipeline.from_pretrained(was.base))
    assert difference(draw(pipeline), was.picture) > 20
    pipeline.load_lora_weights(tmp_path / "lora.safetensors")
    assert difference(draw(pipeline), was.picture) <= 1


@pytest.mark.parametrize("model", ["1-all", "2-attention"])
def test_a_merged_checkpoint_draws_what_the_trained_model_draws(
    tmp_path: Path, trained: dict[str, Trained], model: str
) -> None:
    was, file = trained[model], tmp_path / "merged.safetensors"
    write_checkpoint(was.base, file, "fp32", was.adapter / LORA_WEIGHTS)
    merged = StableDiffusionPipeline.from_single_file(str(file), config=str(was.base), local_files_only=True)
    assert difference(draw(aligned(merged)), was.picture) <= 1


def test_learned_words_go_into_a_merged_checkpoint_and_into_no_lora_file(
    tmp_path: Path, trained: dict[str, Trained], bucket: Bucket
) -> None:
    was, folder = trained["1-all"], tmp_path / "taught"
    shutil.copytree(was.adapter, folder)
    pipeline = StableDiffusionPipeline.from_pretrained(was.base)
    table = pipeline.text_encoder.get_input_embeddings().weight.detach()
    rows = torch.randn(2, table.shape[1], generator=torch.Generator().manual_seed(3))
    save_file({WORD_IDS: torch.tensor([5, 9]), WORD_ROWS: rows}, folder / LEARNED_WORDS)
    merged = tmp_path / "merged.safetensors"
    write_checkpoint(was.base, merged, "fp32", folder / LORA_WEIGHTS)
    name = next(name for name in load_file(merged) if name.endswith("token_embedding.weight"))
    expected = table.clone()
    expected[[5, 9]] = rows
    assert torch.equal(load_file(merged)[name], expected)

    manifest = version_manifest(was.base, "robot", VERSION, describe_files(folder))
    with pytest.raises(InvalidRequest, match="learned words"):
        export_to(bucket, manifest, "comfyui", tmp_path / "lora.safetensors")


def test_a_kohya_file_has_the_names_that_comfyui_and_a1111_know(tmp_path: Path, trained: dict[str, Trained]) -> None:
    file = tmp_path / "lora.safetensors"
    write_kohya(trained["1-all"].adapter / LORA_WEIGHTS, file, "fp16")
    weights = load_file(file)
    for layer, shape in {
        "lora_unet_conv_in": (RANK, 4, 3, 3),
        "lora_unet_conv_out": (RANK, 64, 3, 3),
        "lora_unet_down_blocks_0_downsamplers_0_conv": (RANK, 64, 3, 3),
        "lora_unet_up_blocks_2_upsamplers_0_conv": (RANK, 64, 3, 3),
        "lora_unet_mid_block_resnets_1_time_emb_proj": (RANK, 256),
        "lora_unet_up_blocks_1_attentions_2_proj_in": (RANK, 64, 1, 1),
        "lora_unet_down_blocks_2_attentions_1_transformer_blocks_0_attn2_to_out_0": (RANK, 64),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_0_proj": (RANK, 64),
        "lora_te_text_model_encoder_layers_1_self_attn_out_proj": (RANK, 64),
    }.items():
        assert weights[f"{layer}.lora_down.weight"].shape == shape
        assert weights[f"{layer}.lora_up.weight"].shape[1] == RANK
        assert weights[f"{layer}.alpha"].item() == ALPHA
    kinds = {name.partition(".")[2] for name in weights}
    assert kinds == {"lora_down.weight", "lora_up.weight", "alpha"}
    assert len(weights) % 3 == 0
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata() is None


def test_the_same_adapter_gives_the_same_bytes(tmp_path: Path, trained: dict[str, Trained]) -> None:
    adapter = trained["2-attention"].adapter / LORA_WEIGHTS
    for name in ("one", "two"):
        write_kohya(adapter, tmp_path / name, "fp16")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_without_a_header_an_update_counts_whole(tmp_path: Path) -> None:
    weights = {"unet.conv_in.lora_A.weight": torch.ones(4, 3), "unet.conv_in.lora_B.weight": torch.ones(2, 4)}
    save_file(weights, tmp_path / LORA_WEIGHTS)
    ((layer, update),) = read_adapter(tmp_path / LORA_WEIGHTS).items()
    assert layer == Layer("unet", "conv_in")
    assert torch.equal(update.difference(), torch.full((2, 3), 4.0, dtype=torch.float64))
    assert to_kohya({layer: update}, torch.float32)["lora_unet_conv_in.alpha"].item() == 4


@pytest.mark.parametrize(
    "name", ["unet.conv_in.lora_magnitude_vector", "unet.conv_in.lokr_w1", "text_encoder_2.a.lora_A.weight"]
)
def test_an_adapter_that_is_no_plain_lora_is_refused_by_name(tmp_path: Path, name: str) -> None:
    save_file({name: torch.ones(2, 2)}, tmp_path / LORA_WEIGHTS)
    with pytest.raises(InvalidRequest, match=name):
        read_adapter(tmp_path / LORA_WEIGHTS)


def test_half_a_layer_is_refused(tmp_path: Path) -> None:
    save_file({"unet.conv_in.lora_A.weight": torch.ones(2, 2)}, tmp_path / LORA_WEIGHTS)
    with pytest.raises(InvalidRequest, match="halves"):
        read_adapter(tmp_path / LORA_WEIGHTS)


def test_an_update_beyond_the_number_format_is_refused() -> None:
    update = Update(down=torch.full((1, 2), 1e6), up=torch.ones(2, 1), alpha=1.0)
    with pytest.raises(InvalidRequest, match="lora_unet_conv_in"):
        to_kohya({Layer("unet", "conv_in"): update}, torch.float16)


@dataclass(frozen=True)
class Bucket:
    deployment: Deployment
    s3: Any
    lora: VersionManifest
    full: VersionManifest
    base: Path


@pytest.fixture(scope="module")
def bucket(trained: dict[str, Trained], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """A base model, a LoRA trained on it, and a full model of the same weights."""
    was = trained["1-all"]
    base = BaseModelManifest.model_validate_json((was.base / MANIFEST).read_bytes())
    (was.adapter / "README.md").write_text("the card")
    lora = version_manifest(was.base, "robot", VERSION, describe_files(was.adapter))
    full = version_manifest(was.base, "robot", FULL_VERSION, [file for file in base.files if file.path != MANIFEST])
    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        s3 = boto3.client("s3", region_name="us-east-1")
        s3.create_bucket(Bucket=BUCKET)
        publish(s3, lora, was.adapter)
        publish(s3, full, was.base)
        for file in (*base.files, MANIFEST):
            name = file if isinstance(file, str) else file.path
            s3.upload_file(str(was.base / name), BUCKET, base_model_prefix(base.id) + name)
        deployment = Deployment(
            region="us-east-1",
            api_url="https://unused",
            data_bucket=BUCKET,
            table_name="t",
            state_machine_arn="m",
            subject_topic_arn="s",
        )
        yield Bucket(deployment, s3, lora, full, was.base)


def export_to(bucket: Bucket, manifest: VersionManifest, form: Format, out: Path, **options: Any) -> Path:
    export(bucket.deployment, manifest, form, out, options.get("dtype"), lambda *_: None)
    return out


def test_the_diffusers_format_is_what_was_published(
    tmp_path: Path, bucket: Bucket, trained: dict[str, Trained]
) -> None:
    out = export_to(bucket, bucket.lora, "diffusers", tmp_path / "new" / "robot")
    assert {path.name for path in out.iterdir()} == {LORA_WEIGHTS, "README.md"}
    assert (out / LORA_WEIGHTS).read_bytes() == (trained["1-all"].adapter / LORA_WEIGHTS).read_bytes()


def test_a_full_model_is_exported_as_the_same_weights(tmp_path: Path, bucket: Bucket) -> None:
    out = export_to(bucket, bucket.full, "checkpoint", tmp_path / "robot.safetensors", dtype="fp32")
    write_checkpoint(bucket.base, tmp_path / "direct.safetensors", "fp32")
    assert out.read_bytes() == (tmp_path / "direct.safetensors").read_bytes()


def test_the_command_exports_fp16_unless_told_otherwise(
    tmp_path: Path,
    bucket: Bucket,
    trained: dict[str, Trained],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "deployment_of", lambda *_: bucket.deployment)

    def run(*arguments: str) -> int:
        return cli.run_command_line(lambda: cli.app(["export", "robot", *arguments]))

    lora, model = tmp_path / "lora.safetensors", tmp_path / "model.safetensors"
    assert run(str(lora), "--format", "comfyui", "--version", VERSION) == 0
    assert run(str(model), "--format", "checkpoint", "--version", VERSION) == 0
    assert capsys.readouterr().out.splitlines() == [str(lora), str(model)]
    updates = load_file(lora)
    assert {weight.dtype for name, weight in updates.items() if "alpha" not in name} == {torch.float16}
    assert {weight.dtype for weight in load_file(model).values()} == {torch.float16}
    assert sorted(path.name for path in tmp_path.iterdir()) == [lora.name, model.name]
    write_checkpoint(bucket.base, tmp_path / "merged", "fp16", trained["1-all"].adapter / LORA_WEIGHTS)
    assert model.read_bytes() == (tmp_path / "merged").read_bytes()

    assert run(str(tmp_path / "x.safetensors"), "--version", "ffffffffffff-1") == 1
    assert "no version ffffffffffff-1 of subject robot" in capsys.readouterr().err
    assert run(str(tmp_path / "x.safetensors"), "--format", "onnx") == 2


@pytest.mark.parametrize(
    ("form", "version", "name", "dtype", "said"),
    [
        ("comfyui", "full", "robot.safetensors", None, "is a full model"),
        ("comfyui", "lora", "robot", None, "does not end in .safetensors"),
        ("checkpoint", "full", "robot.ckpt", None, "does not end in .safetensors"),
        ("diffusers", "lora", "robot", "fp32", "published files"),
        ("diffusers", "lora", "taken", None, "exists already"),
        ("comfyui", "lora", "taken.safetensors", None, "exists already"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_fetched(
    tmp_path: Path,
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    form: Format,
    version: str,
    name: str,
    dtype: str | None,
    said: str,
) -> None:
    monkeypatch.setattr("dreamdrop.export.fetch_files", pytest.fail)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken.safetensors").write_text("mine")
    manifest = bucket.full if version == "full" else bucket.lora
    with pytest.raises(InvalidRequest, match=said) as refused:
        export_to(bucket, manifest, form, tmp_path / name, dtype=dtype)
    assert refused.value.cure != InvalidRequest.default_cure
    assert (tmp_path / "taken.safetensors").read_text() == "mine"


def test_a_lora_for_another_structure_is_not_written_for_comfyui(tmp_path: Path, bucket: Bucket) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/config.json").write_text('{"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]}')
    was = BaseModelManifest.model_validate_json((bucket.base / MANIFEST).read_bytes())
    toy = was.model_copy(update={"id": "toy", "files": describe_files(tmp_path)})
    (tmp_path / MANIFEST).write_text(toy.model_dump_json())
    for name in ("unet/config.json", MANIFEST):
        bucket.s3.upload_file(str(tmp_path / name), BUCKET, base_model_prefix("toy") + name)
    with pytest.raises(InvalidRequest, match="robot was trained on toy, which is not built like") as refused:
        export_to(bucket, with_base(bucket.lora, base_model="toy"), "comfyui", tmp_path / "robot.safetensors")
    assert refused.value.cure == "Use --format diffusers."
    assert not (tmp_path / "robot.safetensors").exists()


def with_base(manifest: VersionManifest, **changes: str) -> VersionManifest:
    return manifest.model_copy(update={"artifact": manifest.artifact.model_copy(update=changes)})


def with_path(manifest: VersionManifest, path: str) -> VersionManifest:
    files = [file.model_copy(update={"path": path}) for file in manifest.artifact.files]
    return manifest.model_copy(update={"artifact": manifest.artifact.model_copy(update={"files": files})})


def with_sums(manifest: VersionManifest) -> VersionManifest:
    files = [file.model_copy(update={"sha256": "0" * 64}) for file in manifest.artifact.files]
    return manifest.model_copy(update={"artifact": manifest.artifact.model_copy(update={"files": files})})


@pytest.mark.parametrize(
    ("form", "change", "error", "said"),
    [
        ("checkpoint", {"base_model": "gone"}, UnknownBaseModel, "gone is no longer in the bucket"),
        ("checkpoint", {"base_model_checksum": "0" * 64}, InvalidBaseModel, "is another than"),
        ("diffusers", "../outside", InternalError, "a path outside"),
        ("diffusers", "/outside", InternalError, "a path outside"),
        ("diffusers", "a\\outside", InternalError, "a path outside"),
        ("comfyui", None, InternalError, "is not what was published"),
    ],
)
def test_what_lies_in_the_bucket_is_checked_and_leaves_nothing_when_it_is_wrong(
    tmp_path: Path,
    bucket: Bucket,
    form: Format,
    change: dict[str, str] | str | None,
    error: type[DreamdropError],
    said: str,
) -> None:
    if isinstance(change, dict):
        manifest = with_base(bucket.lora, **change)
    else:
        manifest = with_path(bucket.lora, change) if change else with_sums(bucket.lora)
    with pytest.raises(error, match=said):
        export_to(bucket, manifest, form, tmp_path / "out" / "robot.safetensors")
    assert not list((tmp_path / "out").iterdir())
    assert not (tmp_path / "outside").exists()
