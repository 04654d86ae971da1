"""The networks compute what diffusers' and transformers' compute: on the CPU in fp32 the same bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from diffusion.attention import scaled_dot_product, use_kernel
from diffusion.configuration import UnsupportedModel
from diffusion.files import load_weights, read_autoencoder, read_text_encoder, read_unet, write_network
from diffusion.layers import recompute_activations

GRADIENT_TOLERANCE = 1e-6  # relative to the largest; sums of several gradients come in another order
WIDTH, TOKENS = 32, 77
LEVELS: dict[str, Any] = {
    "block_out_channels": (16, 32, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": WIDTH,
    "norm_num_groups": 8,
}
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {**LEVELS, "attention_head_dim": 4},
    "sd2": {**LEVELS, "attention_head_dim": (2, 4, 4), "use_linear_projection": True, "upcast_attention": True},
    "one-layer": {**LEVELS, "layers_per_block": 1, "norm_eps": 1e-3, "in_channels": 8, "out_channels": 8},
}
TEXTS = {
    "sd1": {"hidden_act": "quick_gelu", "num_hidden_layers": 3, "num_attention_heads": 2},
    "sd2": {"hidden_act": "gelu", "num_hidden_layers": 2, "num_attention_heads": 4},
}


def randomise(network: nn.Module) -> None:
    """Every weight counts: biases are not zero and norms are not one."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            scale = weight[0].numel() ** -0.5 if weight.dim() > 1 else 0.3
            weight.copy_(scale * torch.randn(weight.shape, generator=generator) + (weight.dim() == 1))


def saved(network: Any, folder: Path) -> Any:
    randomise(network)
    network.eval().save_pretrained(folder)
    return network


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def gradients(network: nn.Module, output: Tensor) -> dict[str, Tensor]:
    output.square().mean().backward()  # type: ignore[no-untyped-call]
    return {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}


def assert_alike(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).abs().max() <= GRADIENT_TOLERANCE * gradient.abs().max(), name


@pytest.mark.parametrize("kind", UNETS)
@pytest.mark.parametrize("sides", [(8, 8), (7, 10)], ids=["even", "odd"])
def test_the_unet_predicts_the_same(kind: str, sides: tuple[int, int], tmp_path: Path) -> None:
    theirs = saved(UNet2DConditionModel(**UNETS[kind]), tmp_path)
    ours = read_unet(tmp_path)
    noisy, timesteps, context = draw(2, ours.config.in_channels, *sides), torch.tensor([3, 980]), draw(2, TOKENS, WIDTH)
    assert torch.equal(ours(noisy, timesteps, context), theirs(noisy, timesteps, context).sample)
    assert torch.equal(ours(noisy, timesteps[0], context), theirs(noisy, timesteps[0], context).sample)


@pytest.mark.parametrize("kind", UNETS)
@pytest.mark.parametrize("recompute", [False, True])
def test_the_unet_learns_the_same(kind: str, recompute: bool, tmp_path: Path) -> None:
    theirs = saved(UNet2DConditionModel(**UNETS[kind]), tmp_path).train()
    ours = read_unet(tmp_path).requires_grad_(True).train()
    if recompute:
        recompute_activations(ours)
    inputs = draw(2, ours.config.in_channels, 8, 8), torch.tensor([3, 980]), draw(2, TOKENS, WIDTH)
    assert_alike(gradients(ours, ours(*inputs)), gradients(theirs, theirs(*inputs).sample))


def test_recomputing_keeps_less(tmp_path: Path) -> None:
    saved(UNet2DConditionModel(**UNETS["sd1"]), tmp_path)
    kept: list[int] = []
    for recompute in (False, True):
        unet = read_unet(tmp_path).requires_grad_(True)
        if recompute:
            recompute_activations(unet)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, into=sizes: into.append(t.nbytes) or t, lambda t: t):
            unet(draw(1, 4, 8, 8), torch.tensor(3), draw(1, TOKENS, WIDTH))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 4


def test_another_kernel_takes_the_place_of_torchs(tmp_path: Path) -> None:
    saved(UNet2DConditionModel(**UNETS["sd1"]), tmp_path)
    unet = read_unet(tmp_path)
    shapes: list[tuple[int, ...]] = []

    def kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        shapes.append(tuple(query.shape))
        return scaled_dot_product(query, key, value)

    inputs = draw(1, 4, 8, 8), torch.tensor(3), draw(1, TOKENS, WIDTH)
    expected = unet(*inputs)
    use_kernel(unet, kernel)
    assert torch.equal(unet(*inputs), expected)
    assert len(shapes) == 2 * (2 * 2 + 1 + 2 * 3)
    assert shapes[0] == (1, 4, 64, 4)


@pytest.mark.parametrize("attends", [True, False])
def test_the_autoencoder_computes_the_same(attends: bool, tmp_path: Path) -> None:
    theirs = saved(
        AutoencoderKL(
            block_out_channels=(8, 16, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=2,
            norm_num_groups=4,
            mid_block_add_attention=attends,
        ),
        tmp_path,
    )
    ours = read_autoencoder(tmp_path)
    assert (ours.downscale, ours.config.scaling_factor) == (4, 0.18215)
    pictures = draw(2, 3, 32, 24)
    moments = theirs.encode(pictures).latent_dist.parameters
    assert torch.equal(ours.encode(pictures), moments)
    assert torch.equal(ours.decode(moments[:, :4]), theirs.decode(moments[:, :4]).sample)


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("recompute", [False, True])
def test_the_text_encoder_reads_and_learns_the_same(kind: str, recompute: bool, tmp_path: Path) -> None:
    config = CLIPTextConfig(vocab_size=500, hidden_size=WIDTH, intermediate_size=96, **TEXTS[kind])
    theirs = saved(CLIPTextModel(config), tmp_path).train()
    ours = read_text_encoder(tmp_path).requires_grad_(True)
    if recompute:
        recompute_activations(ours)
    ids = torch.randint(0, 500, (3, TOKENS), generator=torch.Generator().manual_seed(0))
    hidden, expected = ours(ids), theirs(input_ids=ids).last_hidden_state
    assert torch.equal(hidden, expected)
    assert_alike(gradients(ours, hidden), gradients(theirs, expected))


# ---- files


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_we_write_the_libraries_read(dtype: torch.dtype, tmp_path: Path) -> None:
    parts: list[tuple[str, Any, Callable[[Path], nn.Module]]] = [
        ("unet", UNet2DConditionModel(**UNETS["sd2"]), read_unet),
        (
            "text_encoder",
            CLIPTextModel(CLIPTextConfig(vocab_size=99, hidden_size=WIDTH, **TEXTS["sd1"])),
            read_text_encoder,
        ),
    ]
    for name, theirs, read in parts:
        saved(theirs.to(dtype), tmp_path / "base" / name)
        network = read(tmp_path / "base" / name)
        with torch.no_grad():
            for weight in network.parameters():
                weight.mul_(2)
        write_network(network, tmp_path / "trained" / name, like=tmp_path / "base" / name)
        again, report = type(theirs).from_pretrained(tmp_path / "trained" / name, output_loading_info=True)
        assert not any(report.values())
        before, after = theirs.state_dict(), again.state_dict()
        assert all(torch.equal(after[key].float(), 2 * before[key].float()) for key in before)
        written = load_file(next((tmp_path / "trained" / name).glob("*.safetensors")))
        assert {tensor.dtype for tensor in written.values()} == {dtype}


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    theirs = saved(UNet2DConditionModel(**UNETS["sd1"]), tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    ours = read_unet(tmp_path / "shards").state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.state_dict().items())


def renamed(folder: Path, rename: Callable[[str], str], **added: Tensor) -> None:
    path = next(folder.glob("*.safetensors"))
    save_file({rename(name): tensor for name, tensor in load_file(path).items()} | added, path, {"format": "pt"})


def test_names_of_older_libraries_are_understood(tmp_path: Path) -> None:
    config = CLIPTextConfig(vocab_size=99, hidden_size=WIDTH, **TEXTS["sd1"])
    text = saved(CLIPTextModel(config), tmp_path / "text")
    positions = torch.arange(TOKENS)[None]
    renamed(tmp_path / "text", lambda name: f"text_model.{name}", **{"text_model.embeddings.position_ids": positions})
    assert torch.equal(read_text_encoder(tmp_path / "text").vocabulary.weight, text.get_input_embeddings().weight)

    vae = saved(AutoencoderKL(block_out_channels=(16,), norm_num_groups=4), tmp_path / "vae")
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def as_once(name: str) -> str:
        for new, former in old.items():
            name = name.replace(new, former)
        return name

    renamed(tmp_path / "vae", as_once)
    assert any("proj_attn" in name for name in load_file(next((tmp_path / "vae").glob("*.safetensors"))))
    pictures = draw(1, 3, 16, 16)
    assert torch.equal(read_autoencoder(tmp_path / "vae").encode(pictures), vae.encode(pictures).latent_dist.parameters)


def test_a_text_encoder_is_written_under_the_names_that_it_was_read_by(tmp_path: Path) -> None:
    """Those of transformers 4, which knows no others, or of transformers 5."""
    config = CLIPTextConfig(vocab_size=99, hidden_size=WIDTH, **TEXTS["sd1"])
    saved(CLIPTextModel(config), tmp_path / "new")
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    renamed(tmp_path / "old", lambda name: f"text_model.{name}")
    for names in ("new", "old"):
        write_network(read_text_encoder(tmp_path / names), tmp_path / "written" / names, like=tmp_path / names)
        read, written = (
            load_file(folder / "model.safetensors") for folder in (tmp_path / names, tmp_path / "written" / names)
        )
        assert {name: tensor.tolist() for name, tensor in written.items()} == {
            name: tensor.tolist() for name, tensor in read.items()
        }


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("class_embed_type", "timestep"),
        ("addition_embed_type", "text_time"),
        ("transformer_layers_per_block", [1, 2, 10]),
        ("down_block_types", ["AttnDownBlock2D"] * 3),
        ("up_block_types", ["UpBlock2D"] * 2),
        ("mid_block_type", None),
        ("attention_head_dim", [4, 4]),
        ("act_fn", "gelu"),
    ],
)
def test_settings_of_other_networks_are_refused_by_name(setting: str, value: object, tmp_path: Path) -> None:
    saved(UNet2DConditionModel(**UNETS["sd1"]), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, setting: value}))
    with pytest.raises(UnsupportedModel, match=setting):
        read_unet(tmp_path)


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    theirs = saved(UNet2DConditionModel(**UNETS["sd1"]), tmp_path)
    unet = read_unet(tmp_path)
    path = next(tmp_path.glob("*.safetensors"))
    weights = theirs.state_dict()
    save_file(weights | {"more.weight": torch.zeros(1)}, path)
    with pytest.raises(UnsupportedModel, match=r"more\.weight"):
        load_weights(unet, tmp_path)
    save_file(weights | {"conv_in.bias": torch.zeros(3)}, path)
    with pytest.raises(UnsupportedModel, match=r"conv_in\.bias has shape \(3,\) instead of \(16,\)"):
        load_weights(unet, tmp_path)
    save_file({name: weight for name, weight in weights.items() if name != "conv_out.bias"}, path)
    with pytest.raises(UnsupportedModel, match=r"1 weights are missing: conv_out\.bias"):
        load_weights(unet, tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no safetensors weights"):
        read_unet(tmp_path)


def test_an_unknown_activation_is_refused(tmp_path: Path) -> None:
    saved(CLIPTextModel(CLIPTextConfig(vocab_size=99, hidden_size=WIDTH, hidden_act="relu")), tmp_path)
    with pytest.raises(UnsupportedModel, match="hidden_act"):
        read_text_encoder(tmp_path)
