"""One-file checkpoints, as far as names and shapes go: what they are taken for, and what a conversion asks for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.errors import InvalidBaseModel, InvalidRequest
from dreamdrop import single_file
from dreamdrop.formats import need_libraries
from dreamdrop.formats.architecture import (
    PredictionType,
    plain_names,
    recognise,
    scheduler_config,
    settle_prediction,
    settle_resolution,
)
from dreamdrop.formats.names import CLIP, OPENCLIP, UNET, VAE, Part
from dreamdrop.formats.tokenizers import digest_of, find_tokenizer
from dreamdrop.single_file import RECORD, Asked, Record

UNET_INPUT = {"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)}
DECODER = {"first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3)}


@pytest.mark.parametrize(
    ("part", "name", "original"),
    [
        (UNET, "conv_in.weight", "input_blocks.0.0.weight"),
        (UNET, "time_embedding.linear_2.bias", "time_embed.2.bias"),
        (UNET, "conv_norm_out.bias", "out.0.bias"),
        (UNET, "down_blocks.0.resnets.1.conv2.weight", "input_blocks.2.0.out_layers.3.weight"),
        (UNET, "down_blocks.1.resnets.0.conv_shortcut.weight", "input_blocks.4.0.skip_connection.weight"),
        (UNET, "down_blocks.2.downsamplers.0.conv.bias", "input_blocks.9.0.op.bias"),
        (UNET, "down_blocks.1.attentions.1.proj_in.weight", "input_blocks.5.1.proj_in.weight"),
        (UNET, "mid_block.resnets.1.time_emb_proj.weight", "middle_block.2.emb_layers.1.weight"),
        (UNET, "mid_block.attentions.0.norm.weight", "middle_block.1.norm.weight"),
        (UNET, "up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
        (UNET, "up_blocks.2.upsamplers.0.conv.weight", "output_blocks.8.2.conv.weight"),
        (
            UNET,
            "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0.bias",
            "output_blocks.11.1.transformer_blocks.0.attn2.to_out.0.bias",
        ),
        (VAE, "encoder.down_blocks.2.resnets.0.conv_shortcut.bias", "encoder.down.2.block.0.nin_shortcut.bias"),
        (VAE, "encoder.down_blocks.0.downsamplers.0.conv.weight", "encoder.down.0.downsample.conv.weight"),
        (VAE, "decoder.up_blocks.0.upsamplers.0.conv.weight", "decoder.up.3.upsample.conv.weight"),
        (VAE, "decoder.up_blocks.3.resnets.2.norm1.weight", "decoder.up.0.block.2.norm1.weight"),
        (VAE, "decoder.mid_block.attentions.0.to_out.0.weight", "decoder.mid.attn_1.proj_out.weight"),
        (VAE, "encoder.mid_block.resnets.1.conv1.bias", "encoder.mid.block_2.conv1.bias"),
        (VAE, "encoder.conv_norm_out.weight", "encoder.norm_out.weight"),
        (VAE, "post_quant_conv.bias", "post_quant_conv.bias"),
        (CLIP, "encoder.layers.3.mlp.fc1.bias", "text_model.encoder.layers.3.mlp.fc1.bias"),
        (CLIP, "text_model.final_layer_norm.bias", "text_model.final_layer_norm.bias"),
        (OPENCLIP, "encoder.layers.3.mlp.fc2.bias", "transformer.resblocks.3.mlp.c_proj.bias"),
        (OPENCLIP, "encoder.layers.22.self_attn.out_proj.weight", "transformer.resblocks.22.attn.out_proj.weight"),
        (OPENCLIP, "embeddings.position_embedding.weight", "positional_embedding"),
        (OPENCLIP, "text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
    ],
)
def test_a_weight_has_its_original_name(part: Part, name: str, original: str) -> None:
    assert part.original(name) == part.prefix + original


def test_openclip_keeps_queries_keys_and_values_in_one_weight_in_this_order() -> None:
    names = [f"encoder.layers.0.self_attn.{part}_proj.bias" for part in "vkq"]
    assert OPENCLIP.by_original(names) == {
        "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias": tuple(reversed(names))
    }


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (UNET, "class_embedding.weight"),
        (UNET, "down_blocks.0.resnets.0.norm3.weight"),
        (VAE, "encoder.mid_block.attentions.0.query.weight"),
        (VAE, "latents.weight"),
        (OPENCLIP, "text_projection.weight"),
        (OPENCLIP, "encoder.layers.0.norm.weight"),
    ],
)
def test_a_weight_that_the_original_has_not_is_named(part: Part, name: str) -> None:
    with pytest.raises(InvalidBaseModel, match=name):
        part.original(name)


def test_averaged_weights_are_taken_when_there_is_one_for_each() -> None:
    names = ["model.diffusion_model.out.2.bias", "model.diffusion_model.out.2.weight", "first_stage_model.x"]
    averaged = {"model_ema.diffusion_modelout2bias", "model_ema.diffusion_modelout2weight"}
    taken = plain_names([*names, *averaged])
    assert {taken[name] for name in names[:2]} == averaged
    assert taken["first_stage_model.x"] == "first_stage_model.x"
    partly = plain_names([*names, "model_ema.diffusion_modelout2bias", "model_ema.decay"])
    assert partly["model.diffusion_model.out.2.bias"] == "model.diffusion_model.out.2.bias"


def test_the_older_names_of_clip_are_understood() -> None:
    old = "cond_stage_model.transformer.encoder.layers.0.mlp.fc1.bias"
    new = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.bias"
    assert plain_names([old]) == {new: old}
    assert plain_names([new]) == {new: new}


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({}, "holds no UNet"),
        ({"conv_in.weight": (320, 4, 3, 3)}, "holds no UNet"),
        ({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (4, 4)}, "is a LoRA"),
        ({"unet.mid_block.attentions.0.proj_in.lora.down.weight": (4, 4)}, "is a LoRA"),
        ({"conditioner.embedders.0.transformer.text_model.x": (1,), **UNET_INPUT}, "Stable Diffusion XL"),
        ({"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (1,)}, "SD 3"),
        ({"double_blocks.0.img_attn.qkv.weight": (1,)}, "Flux"),
        ({"control_model.input_blocks.0.0.weight": (320, 4, 3, 3)}, "ControlNet"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)}, "an inpainting model.*9 channels"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (320, 8, 3, 3)}, "other than text to image.*8 channels"),
        (UNET_INPUT, r"lacks the autoencoder"),
        ({**UNET_INPUT, **DECODER}, "lacks the text encoder"),
        (
            {**UNET_INPUT, **DECODER, "cond_stage_model.transformer.text_model.final_layer_norm.bias": (768,)},
            r"has no model\.diffusion_model\.input_blocks\.1\.0\.out_layers\.3\.weight",
        ),
    ],
)
def test_a_file_that_cannot_be_trained_is_refused_for_what_it_is(shapes: dict[str, tuple[int, ...]], said: str) -> None:
    with pytest.raises(InvalidBaseModel, match=said) as refused:
        recognise(shapes)
    assert refused.value.cure != InvalidBaseModel.default_cure


def test_version_2_is_asked_what_it_predicts() -> None:
    assert settle_prediction(1, None) == "epsilon"
    assert settle_prediction(1, "v_prediction") == "v_prediction"
    with pytest.raises(InvalidRequest) as refused:
        settle_prediction(2, None)
    assert "--prediction-type" in refused.value.cure


@pytest.mark.parametrize(
    ("version", "prediction", "asked", "side"),
    [
        (1, "epsilon", None, 512),
        (1, "v_prediction", None, 512),
        (2, "epsilon", None, 512),
        (2, "v_prediction", None, 768),
        (2, "v_prediction", 512, 512),
    ],
)
def test_the_usual_sides(version: int, prediction: PredictionType, asked: int | None, side: int) -> None:
    assert settle_resolution(version, prediction, asked) == side
    with pytest.raises(InvalidRequest, match="516"):
        settle_resolution(version, prediction, 516)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_schedule_is_stable_diffusions(prediction: PredictionType) -> None:
    config = scheduler_config(prediction)
    assert (config["beta_schedule"], config["beta_start"], config["beta_end"]) == ("scaled_linear", 0.00085, 0.012)
    assert config["prediction_type"] == prediction


def test_the_tokenizer_is_the_asked_one_or_the_one_beside_the_file(tmp_path: Path) -> None:
    beside, asked = tmp_path / "tokenizer", tmp_path / "sd15" / "tokenizer"
    for directory in (beside, asked):
        directory.mkdir(parents=True)
    (beside / "tokenizer.json").write_text("{}")
    for name in ("vocab.json", "merges.txt"):
        (asked / name).write_text(name)
    file = tmp_path / "model.safetensors"
    assert find_tokenizer(file, None) == beside
    assert find_tokenizer(file, asked) == find_tokenizer(file, asked.parent) == asked
    assert digest_of(beside) != digest_of(asked)


def test_without_a_tokenizer_the_cure_says_where_one_is(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.json").write_text("{}")  # without its merges
    for asked in (None, tmp_path / "tokenizer"):
        with pytest.raises(InvalidBaseModel, match="vocabulary") as refused:
            find_tokenizer(tmp_path / "model.safetensors", asked)
        assert "--tokenizer" in refused.value.cure
        assert "openai/clip-vit-large-patch14" in refused.value.cure


@pytest.mark.parametrize(
    ("asked", "same"),
    [
        (Asked(), True),
        (Asked(prediction_type="v_prediction", resolution=768), True),
        (Asked(prediction_type="epsilon"), False),
        (Asked(resolution=512), False),
    ],
)
def test_a_converted_directory_answers_what_was_asked_of_it(asked: Asked, same: bool) -> None:
    record = Record(sha256="a", tokenizer_sha256="b", prediction_type="v_prediction", resolution=768)
    assert record.answers("a", "b", asked) == same
    assert not record.answers("x", "b", asked)
    assert not record.answers("a", "x", asked)


@pytest.mark.parametrize("content", [None, "{}", "nothing", json.dumps({"sha256": "of another file"})])
def test_a_directory_that_was_not_made_of_the_file_is_left_alone(tmp_path: Path, content: str | None) -> None:
    file, taken = tmp_path / "model.safetensors", tmp_path / "model-diffusers"
    file.write_text("x")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    taken.mkdir()
    if content:
        (taken / RECORD).write_text(content)
    with pytest.raises(InvalidRequest, match="exists already"):
        single_file.converted(file, Asked())
    assert sorted(path.name for path in taken.iterdir()) == ([RECORD] if content else [])


def test_missing_libraries_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    need_libraries()
    monkeypatch.setattr("dreamdrop.formats._LIBRARIES", ("json", "no_such_library"))
    with pytest.raises(InvalidRequest, match="no_such_library") as refused:
        need_libraries()
    assert "pip install" in refused.value.cure


def test_the_command_line_starts_without_torch() -> None:
    script = "import sys, dreamdrop.cli; sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2]).returncode == 0
