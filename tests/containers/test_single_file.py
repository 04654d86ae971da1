"""One-file checkpoints, there and back: what diffusers reads in them, and what is refused."""

from __future__ import annotations

import json
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from moto import mock_aws
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from contracts.errors import DreamdropError, InvalidBaseModel, InvalidRequest
from dreamdrop import cli, single_file
from dreamdrop.base_models import describe_directory
from dreamdrop.deployment import Deployment
from dreamdrop.formats import importing
from dreamdrop.formats.architecture import Architecture, differences, recognise
from dreamdrop.formats.checkpoint import read_weights
from dreamdrop.formats.exporting import original_weights, write_checkpoint
from dreamdrop.formats.importing import convert
from dreamdrop.formats.names import CLIP, OPENCLIP, UNET, VAE
from dreamdrop.single_file import RECORD, Asked
from tests.containers.inference_parts import BUCKET, CREDENTIALS
from tests.containers.single_file_parts import RESOLUTION, aligned, build_small, draw
from toyworld.tiny import build_tiny_base_model

OUT_BIAS = "model.diffusion_model.out.2.bias"
NETWORKS = ("unet", "vae", "text_encoder")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A diffusers directory of each version."""
    root = tmp_path_factory.mktemp("small")
    return {1: build_small(root / "v1", 1), 2: build_small(root / "v2", 2)}


@pytest.fixture(scope="module")
def files(models: dict[int, Path]) -> dict[int, Path]:
    """The same as one file each, in fp32."""
    made = {}
    for version, directory in models.items():
        made[version] = directory.with_suffix(".safetensors")
        write_checkpoint(directory, made[version], "fp32")
    return made


def pipeline_of(directory: Path) -> StableDiffusionPipeline:
    return aligned(StableDiffusionPipeline.from_pretrained(directory))


def read_by_diffusers(file: Path, directory: Path) -> StableDiffusionPipeline:
    """With nothing but the directory's configuration."""
    return aligned(StableDiffusionPipeline.from_single_file(str(file), config=str(directory), local_files_only=True))


def same_weights(one: StableDiffusionPipeline, other: StableDiffusionPipeline) -> bool:
    pairs = [(getattr(one, name).state_dict(), getattr(other, name).state_dict()) for name in NETWORKS]
    return all(
        a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a)
        for a, b in pairs
    )


def import_of(file: Path, out: Path, tokenizer: Path, version: int = 1) -> Path:
    prediction = "v_prediction" if version == 2 else None
    convert(file, out, tokenizer=tokenizer, prediction_type=prediction, resolution=RESOLUTION)
    return out


@pytest.mark.parametrize("version", [1, 2])
def test_an_exported_file_is_the_same_model_to_diffusers_and_to_us(
    tmp_path: Path, models: dict[int, Path], files: dict[int, Path], version: int
) -> None:
    original = pipeline_of(models[version])
    theirs = read_by_diffusers(files[version], models[version])
    tokenizer = models[3 - version] / "tokenizer"  # the other version's, which pads otherwise
    ours = pipeline_of(import_of(files[version], tmp_path / "back", tokenizer, version))
    assert same_weights(original, theirs)
    assert same_weights(original, ours)
    assert draw(original).tobytes() == draw(theirs).tobytes() == draw(ours).tobytes()
    assert dict(ours.scheduler.config) == dict(original.scheduler.config)
    assert ours.tokenizer.pad_token_id == (0 if version == 2 else ours.tokenizer.eos_token_id)
    assert ours.tokenizer.model_max_length == 77


@pytest.mark.parametrize("version", [1, 2])
def test_the_number_format_is_kept_on_the_way_in_and_chosen_on_the_way_out(
    tmp_path: Path, models: dict[int, Path], files: dict[int, Path], version: int
) -> None:
    half = tmp_path / "half.safetensors"
    write_checkpoint(models[version], half, "fp16")
    assert {weight.dtype for weight in load_file(half).values()} == {torch.float16}
    assert half.stat().st_size < 0.51 * files[version].stat().st_size
    back = import_of(half, tmp_path / "back", models[version] / "tokenizer", version)
    for stored in back.rglob("*.safetensors"):
        assert {weight.dtype for weight in load_file(stored).values()} == {torch.float16}
    again = tmp_path / "again.safetensors"
    write_checkpoint(back, again, "fp16")
    assert again.read_bytes() == half.read_bytes()


def change(file: Path, edit: Callable[[dict[str, Tensor]], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the file seems to hold what the edit makes of it."""
    weights = load_file(file)
    edit(weights)
    monkeypatch.setattr(importing, "read_weights", lambda _file: weights)


def with_old_names(weights: dict[str, Tensor]) -> None:
    for name in [name for name in weights if name.startswith("cond_stage_model.transformer.text_model.")]:
        weights[name.replace("text_model.", "")] = weights.pop(name)


def with_linear_attention(weights: dict[str, Tensor]) -> None:
    for name in [name for name in weights if ".attn_1." in name and weights[name].ndim == 4]:
        weights[name] = weights[name][:, :, 0, 0].contiguous()


def with_things_that_are_not_needed(weights: dict[str, Tensor]) -> None:
    weights["betas"] = torch.zeros(1000)
    weights["model_ema.decay"] = torch.tensor(0.9999)
    weights["first_stage_model.loss.logvar"] = torch.tensor(float("nan"))
    weights["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]


def with_averages(weights: dict[str, Tensor]) -> None:
    for name in [name for name in weights if name.startswith(UNET.prefix)]:
        weights["model_ema." + name.removeprefix("model.").replace(".", "")] = weights[name].clone()
        weights[name] = weights[name] + 1.0


@pytest.mark.parametrize(
    "edit", [with_old_names, with_linear_attention, with_things_that_are_not_needed, with_averages]
)
def test_the_variants_of_the_format_are_the_same_model(
    tmp_path: Path,
    models: dict[int, Path],
    files: dict[int, Path],
    edit: Callable[[dict[str, Tensor]], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change(files[1], edit, monkeypatch)
    back = import_of(files[1], tmp_path / "back", models[1] / "tokenizer")
    for file in back.rglob("*.safetensors"):
        assert file.read_bytes() == (models[1] / file.relative_to(back)).read_bytes()


def test_the_last_layer_of_openclip_which_nothing_reads_is_left_out(
    tmp_path: Path, models: dict[int, Path], files: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = "cond_stage_model.model.transformer.resblocks."

    def deepen(weights: dict[str, Tensor]) -> None:
        for name in [name for name in weights if name.startswith(f"{prefix}0.")]:
            for layer in range(2, 24):
                weights[name.replace("blocks.0.", f"blocks.{layer}.")] = weights[name].clone()
        weights["cond_stage_model.model.text_projection"] = torch.zeros(64, 64)

    change(files[2], deepen, monkeypatch)
    back = import_of(files[2], tmp_path / "back", models[2] / "tokenizer", version=2)
    assert json.loads((back / "text_encoder/config.json").read_text())["num_hidden_layers"] == 23


@pytest.mark.parametrize("zipped", [True, False])
def test_a_ckpt_becomes_the_same_directory_as_a_safetensors_file(
    tmp_path: Path, models: dict[int, Path], files: dict[int, Path], zipped: bool
) -> None:
    ckpt = tmp_path / "model.ckpt"
    content = {"state_dict": OrderedDict(load_file(files[1])), "global_step": 470_000, "epoch": 3}
    torch.save(content, ckpt, _use_new_zipfile_serialization=zipped)
    tokenizer = models[1] / "tokenizer"
    from_ckpt = import_of(ckpt, tmp_path / "from-ckpt", tokenizer)
    from_safetensors = import_of(files[1], tmp_path / "from-safetensors", tokenizer)
    assert contents(from_ckpt) == contents(from_safetensors)
    assert not list(from_ckpt.rglob("*.ckpt"))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("name", "is_read"), [("ModelCheckpoint", True), ("EarlyStopping", False)])
def test_a_ckpt_that_names_lightnings_checkpoint_class_is_read_without_lightning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool, name: str, is_read: bool
) -> None:
    module = "pytorch_lightning.callbacks.model_checkpoint"
    callback = type(name, (), {"__module__": module})
    content = {"state_dict": {OUT_BIAS: torch.ones(4)}, "callbacks": {callback: {"best_model_score": 1.0}}}
    with monkeypatch.context() as installed:
        for parent in ("pytorch_lightning", "pytorch_lightning.callbacks"):
            installed.setitem(sys.modules, parent, ModuleType(parent))
        installed.setitem(sys.modules, module, ModuleType(module))
        setattr(sys.modules[module], name, callback)
        torch.save(content, tmp_path / "model.ckpt", _use_new_zipfile_serialization=zipped)
    assert "pytorch_lightning" not in sys.modules
    if is_read:
        assert torch.equal(read_weights(tmp_path / "model.ckpt")[OUT_BIAS], torch.ones(4))
    else:
        with pytest.raises(InvalidBaseModel, match=rf"more than weights.*{name}"):
            read_weights(tmp_path / "model.ckpt")


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.file, "executed")


@pytest.mark.parametrize("by_torch", [True, False])
def test_a_pickle_that_holds_more_than_weights_is_refused_and_not_executed(
    tmp_path: Path, models: dict[int, Path], by_torch: bool
) -> None:
    trap, ckpt = tmp_path / "executed", tmp_path / "model.ckpt"
    content = {"state_dict": {OUT_BIAS: torch.zeros(4)}, "callbacks": Trap(trap)}
    with ckpt.open("wb") as file:
        (torch.save if by_torch else pickle.dump)(content, file)
    with pytest.raises(InvalidBaseModel, match=r"more than weights.*foreign code") as refused:
        import_of(ckpt, tmp_path / "out", models[1] / "tokenizer")
    assert "safetensors" in refused.value.cure
    assert "weights_only" not in str(refused.value)
    assert not trap.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.ckpt", b""),
        ("model.ckpt", b"<html>not found</html>"),
        ("model.ckpt", b"PK\x03\x04 half a download"),
        ("model.ckpt", pickle.dumps([1, 2])),
        ("model.safetensors", b""),
        ("model.safetensors", b"<html>not found</html>"),
        ("model.safetensors", pickle.dumps({"state_dict": {}})),
        ("model.bin", b"x"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_a_cure(
    tmp_path: Path, models: dict[int, Path], name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidBaseModel, match=name) as refused:
        import_of(tmp_path / name, tmp_path / "out", models[1] / "tokenizer")
    assert refused.value.cure != InvalidBaseModel.default_cure


def without(*prefixes: str) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: [weights.pop(name) for name in list(weights) if name.startswith(prefixes)]


def with_weight(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], object]:
    return lambda weights: weights.update({name: value})


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (with_weight(OUT_BIAS, torch.tensor([0.0, float("nan"), 0.0, 0.0])), f"{OUT_BIAS}.*not finite"),
        (with_weight(OUT_BIAS, torch.full((4,), float("-inf"))), f"{OUT_BIAS}.*not finite"),
        (with_weight(OUT_BIAS, torch.zeros(4, dtype=torch.float64)), "stored as torch.float64"),
        (with_weight(OUT_BIAS, torch.zeros(5)), r"the shape \[5\], wanted is \[4\]"),
        (with_weight(OUT_BIAS, torch.zeros(4, 2)), r"the shape \[4, 2\], wanted is \[4\]"),
        (with_weight("model.diffusion_model.label_emb.0.0.weight", torch.zeros(4)), "more than.*label_emb"),
        (without("first_stage_model."), "lacks the autoencoder"),
        (without("cond_stage_model."), "lacks the text encoder"),
        (without(OUT_BIAS), f"lacks weights of the unet: {OUT_BIAS}"),
        (without("model.diffusion_model.middle_block."), "lacks weights of the unet: .* and 43 more"),
        (without("first_stage_model.encoder.mid.attn_1.q."), "lacks weights of the vae"),
        (
            with_weight("model.diffusion_model.input_blocks.0.0.weight", torch.zeros(64, 9, 3, 3)),
            "an inpainting model",
        ),
    ],
)
def test_a_damaged_or_other_model_is_refused_by_the_name_of_what_is_wrong(
    tmp_path: Path,
    models: dict[int, Path],
    files: dict[int, Path],
    edit: Callable[[dict[str, Tensor]], object],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    change(files[1], edit, monkeypatch)
    with pytest.raises(InvalidBaseModel, match=said) as refused:
        import_of(files[1], tmp_path / "out", models[1] / "tokenizer")
    assert refused.value.cure
    assert not (tmp_path / "out").exists()


def test_the_tokenizer_of_another_model_is_refused(
    tmp_path: Path, models: dict[int, Path], files: dict[int, Path]
) -> None:
    other = tmp_path / "tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(models[1] / "tokenizer")
    tokenizer.add_tokens(["sks2"])
    tokenizer.save_pretrained(other)
    with pytest.raises(InvalidBaseModel, match="829 words, the text encoder 828"):
        import_of(files[1], tmp_path / "out", other)


def test_a_conversion_happens_once_and_its_directory_is_imported_as_any_other(
    tmp_path: Path, models: dict[int, Path], files: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(models[2], "v_prediction", RESOLUTION, tmp_path / "made" / "sd2")
    directory = single_file.converted(files[2], asked)
    assert directory == asked.directory
    assert [path.name for path in directory.parent.iterdir()] == ["sd2"]
    manifest = describe_directory(directory, "sd2", "a file", "openrail++")
    assert manifest.resolution == RESOLUTION
    assert RECORD in {file.path for file in manifest.files}

    monkeypatch.setattr("dreamdrop.formats.importing.convert", pytest.fail)
    assert single_file.converted(files[2], asked) == directory
    with pytest.raises(InvalidRequest, match="exists already"):
        single_file.converted(files[1], asked)


def test_the_command_imports_a_file_as_it_imports_a_directory(
    tmp_path: Path,
    models: dict[int, Path],
    files: dict[int, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    deployment = Deployment(
        region="us-east-1",
        api_url="https://unused",
        data_bucket=BUCKET,
        table_name="t",
        state_machine_arn="m",
        subject_topic_arn="s",
    )
    monkeypatch.setattr(cli, "deployment_of", lambda *_: deployment)
    described = ["--id", "sd1", "--licence", "mit", "--source", "a file"]
    of_one_file = ["--directory", str(tmp_path / "sd1"), "--tokenizer", str(models[1]), "--resolution", "64"]

    def run(path: Path, *options: str) -> int:
        return cli.run_command_line(lambda: cli.app(["import-base", str(path), *described, *options]))

    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=BUCKET)
        assert run(files[1], *of_one_file) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["resolution"], said["uploaded"][-1]) == (RESOLUTION, "manifest.json")
        for again in ((files[1], *of_one_file), (tmp_path / "sd1",)):
            assert run(*again) == 0
            assert json.loads(capsys.readouterr().out)["uploaded"] == []
    assert run(models[1], "--prediction-type", "epsilon") == 1
    assert "Leave the options for one file out" in capsys.readouterr().err


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, models: dict[int, Path], files: dict[int, Path]) -> None:
    with pytest.raises(InvalidRequest, match="do not tell what it predicts"):
        single_file.converted(files[2], Asked(models[2], directory=tmp_path / "out" / "sd2"))
    assert not list((tmp_path / "out").iterdir())


def test_a_model_of_another_structure_is_not_exported_as_one_file(tmp_path: Path) -> None:
    tiny = build_tiny_base_model(tmp_path / "tiny")
    with pytest.raises(InvalidRequest, match="original layout") as refused:
        write_checkpoint(tiny, tmp_path / "tiny.safetensors", "fp16")
    assert "--format diffusers" in refused.value.cure
    assert not (tmp_path / "tiny.safetensors").exists()


@pytest.mark.parametrize(
    ("part", "setting", "value"),
    [("unet", "attention_head_dim", 4), ("vae", "scaling_factor", 1.0), ("text_encoder", "hidden_act", "gelu_new")],
)
def test_a_setting_that_one_file_cannot_carry_is_named(
    tmp_path: Path, models: dict[int, Path], part: str, setting: str, value: object
) -> None:
    model = tmp_path / "model"
    for name in NETWORKS:
        (model / name).mkdir(parents=True)
        for path in (models[1] / name).iterdir():
            (model / name / path.name).symlink_to(path)
    config = json.loads((model / part / "config.json").read_text())
    (model / part / "config.json").unlink()
    (model / part / "config.json").write_text(json.dumps({**config, setting: value}))
    with pytest.raises(InvalidRequest, match=f"differs.* in {part}.{setting}"):
        write_checkpoint(model, tmp_path / "out.safetensors", "fp16")


def test_numbers_beyond_the_format_are_not_written_as_infinite(tmp_path: Path, models: dict[int, Path]) -> None:
    pipeline = pipeline_of(models[1])
    pipeline.unet.conv_out.bias.data[0] = 1e6
    pipeline.save_pretrained(tmp_path / "large")
    with pytest.raises(InvalidRequest, match="beyond") as refused:
        write_checkpoint(tmp_path / "large", tmp_path / "out.safetensors", "fp16")
    assert "--dtype fp32" in refused.value.cure


SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}
SD21 = {
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
    "sample_size": 96,
}


@pytest.mark.parametrize(
    ("version", "unet", "text"),
    [
        (1, SD15, {"hidden_act": "quick_gelu", "hidden_size": 768, "num_attention_heads": 12}),
        (2, SD21, {"hidden_act": "gelu", "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 23}),
    ],
)
def test_the_published_models_are_recognised_by_their_shapes(
    version: int, unet: dict[str, Any], text: dict[str, Any]
) -> None:
    """In their real size, without weights."""
    inner = 4 * text["hidden_size"]
    with torch.device("meta"):
        networks = {
            UNET: UNet2DConditionModel(**unet),
            VAE: AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
            ),
            CLIP if version == 1 else OPENCLIP: CLIPTextModel(
                CLIPTextConfig(vocab_size=49408, intermediate_size=inner, **text)
            ),
        }
    shapes = {}
    for part, network in networks.items():
        state = network.state_dict()
        for original, names in part.by_original(state).items():
            first, *rest = state[names[0]].shape
            shapes[original] = (first * len(names), *rest)
    found: Architecture = recognise(shapes)
    assert found.version == version
    configs = {part.folder: network.config for part, network in networks.items()}
    assert differences(found, {**configs, "text_encoder": configs["text_encoder"].to_dict()}) == []
    assert len(shapes) == {1: 686 + 248 + 196, 2: 686 + 248 + 280}[version]


def test_foreign_errors_do_not_pass(tmp_path: Path, models: dict[int, Path]) -> None:
    """Whatever is wrong with a file has a cure."""
    empty = tmp_path / "empty.safetensors"
    save_file({}, empty)
    with pytest.raises(DreamdropError):
        import_of(empty, tmp_path / "out", models[1] / "tokenizer")


def test_both_layouts_hold_the_same_numbers(models: dict[int, Path]) -> None:
    pipeline = pipeline_of(models[2])
    states = {UNET: pipeline.unet.state_dict(), VAE: pipeline.vae.state_dict()}
    states[OPENCLIP] = pipeline.text_encoder.state_dict()
    configs = {
        "unet": pipeline.unet.config,
        "vae": pipeline.vae.config,
        "text_encoder": pipeline.text_encoder.config.to_dict(),
    }
    written = original_weights(states, configs, torch.float32)
    count = sum(weight.numel() for state in states.values() for weight in state.values())
    assert sum(weight.numel() for weight in written.values()) == count
    assert written["first_stage_model.decoder.mid.attn_1.q.weight"].shape == (32, 32, 1, 1)  # as the original wants it
