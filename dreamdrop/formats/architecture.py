"""Which Stable Diffusion a one-file checkpoint holds, read from the names and shapes of its weights.

The widths stand in the shapes. What does not (heads, activation, noise schedule) goes with the text encoder: versions
1.x have CLIP's, 2.x OpenCLIP's. What the network predicts and for which side it was trained stands nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from contracts.errors import InvalidBaseModel, InvalidRequest
from dreamdrop.formats.names import CLIP, OPENCLIP, UNET, VAE, Part

Shapes = Mapping[str, tuple[int, ...]]
PredictionType = Literal["epsilon", "v_prediction"]

LATENT_CHANNELS = 4
LATENT_PIXELS = 8  # a side of a latent in pixels
HEAD_WIDTH = 64  # of the text encoders, and of the UNet of 2.x
HEADS_OF_1 = 8
LAYERS_READ_OF_OPENCLIP = 23  # 2.x takes the last layer but one; its files hold a 24th that nothing reads

DOWN_BLOCKS = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]

_INPAINTING_CHANNELS = 9
_SD_ONLY = "Only text-to-image models of Stable Diffusion 1.x and 2.x can be trained; import one of those."
# What other files can be told by -> what they are.
_OTHER_KINDS = (
    (re.compile(r"lora_(unet|te\d?)_|.*\.lora[_.]"), "a LoRA, not a whole model", "Import the model it was made for."),
    (re.compile(r"conditioner\."), "a Stable Diffusion XL model or its like", _SD_ONLY),
    (re.compile(r"(model\.diffusion_model\.)?(joint|double)_blocks\."), "a transformer (SD 3, Flux)", _SD_ONLY),
    (re.compile(r"control_model\."), "a ControlNet", _SD_ONLY),
)
_HALF_A_MODEL = "Take the file that holds the whole model: UNet, autoencoder (VAE) and text encoder."


@dataclass(frozen=True)
class Architecture:
    """The networks as diffusers and transformers configure them, without what the weights do not tell."""

    version: Literal[1, 2]
    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]

    @property
    def text_part(self) -> Part:
        return CLIP if self.version == 1 else OPENCLIP


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """Usual name -> the name in the file, for the weights that are used.

    Averaged weights (EMA) that a file holds beside the trained ones are what the published model is, so they are
    taken. Old merges lack `text_model` in the names of CLIP.
    """
    present = set(names)
    usual = {name: name for name in present}
    averaged = {name: _averaged(name) for name in present if name.startswith(UNET.prefix)}
    if present.issuperset(averaged.values()):
        usual |= averaged
    for name in present:
        rest = name.removeprefix(CLIP.prefix)
        if rest != name and rest.startswith(("embeddings.", "encoder.", "final_layer_norm.")):
            usual[f"{CLIP.prefix}text_model.{rest}"] = usual.pop(name)
    return usual


def _averaged(name: str) -> str:
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def recognise(shapes: Shapes) -> Architecture:
    """Raises InvalidBaseModel saying what the file is instead, or what it lacks. `shapes` has the usual names."""
    for pattern, kind, cure in _OTHER_KINDS:
        if any(pattern.match(name) for name in shapes):
            raise InvalidBaseModel(f"The file is {kind}.", cure)
    first = shapes.get(f"{UNET.prefix}input_blocks.0.0.weight")
    if first is None:
        raise InvalidBaseModel(f"The file holds no UNet of Stable Diffusion ({UNET.prefix}...).", _HALF_A_MODEL)
    if first[1] != LATENT_CHANNELS:
        kind = "an inpainting model" if first[1] == _INPAINTING_CHANNELS else "for other than text to image"
        raise InvalidBaseModel(f"The file is {kind}: its UNet reads {first[1]} channels, not 4.", _SD_ONLY)
    if f"{VAE.prefix}decoder.conv_in.weight" not in shapes:
        raise InvalidBaseModel("The file lacks the autoencoder (VAE).", _HALF_A_MODEL)
    clip, openclip = (any(name.startswith(part.prefix) for name in shapes) for part in (CLIP, OPENCLIP))
    if not clip and not openclip:
        raise InvalidBaseModel("The file lacks the text encoder.", _HALF_A_MODEL)
    version: Literal[1, 2] = 1 if clip else 2
    try:
        return Architecture(version, _unet(shapes, version), _vae(shapes), _TEXT_ENCODERS[version](shapes))
    except (KeyError, IndexError) as error:
        raise InvalidBaseModel(
            f"The file is not built like Stable Diffusion 1.x or 2.x: it has no {error.args[0]}.", _SD_ONLY
        ) from error


def _unet(shapes: Shapes, version: Literal[1, 2]) -> dict[str, Any]:
    widths = [shapes[f"{UNET.prefix}input_blocks.{block}.0.out_layers.3.weight"][0] for block in (1, 4, 7, 10)]
    transformer = f"{UNET.prefix}input_blocks.1.1."
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "block_out_channels": widths,
        "layers_per_block": 2,
        "down_block_types": DOWN_BLOCKS,
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "cross_attention_dim": shapes[f"{transformer}transformer_blocks.0.attn2.to_k.weight"][1],
        "attention_head_dim": HEADS_OF_1 if version == 1 else [width // HEAD_WIDTH for width in widths],  # a count
        "use_linear_projection": len(shapes[f"{transformer}proj_in.weight"]) == 2,
        "transformer_layers_per_block": 1,
        "class_embed_type": None,
        "addition_embed_type": None,
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "act_fn": "silu",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
    }


def _vae(shapes: Shapes) -> dict[str, Any]:
    levels = range(4)
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": LATENT_CHANNELS,
        "block_out_channels": [shapes[f"{VAE.prefix}encoder.down.{n}.block.0.conv1.weight"][0] for n in levels],
        "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D" for _ in levels],
        "up_block_types": ["UpDecoderBlock2D" for _ in levels],
        "norm_num_groups": 32,
        "act_fn": "silu",
        "scaling_factor": 0.18215,
    }


def _clip(shapes: Shapes) -> dict[str, Any]:
    base = f"{CLIP.prefix}text_model."
    return _text_config(
        words=shapes[f"{base}embeddings.token_embedding.weight"],
        positions=shapes[f"{base}embeddings.position_embedding.weight"],
        inner=shapes[f"{base}encoder.layers.0.mlp.fc1.weight"],
        layers=_count(shapes, f"{base}encoder.layers."),
        activation="quick_gelu",
    )


def _openclip(shapes: Shapes) -> dict[str, Any]:
    base = OPENCLIP.prefix
    return _text_config(
        words=shapes[f"{base}token_embedding.weight"],
        positions=shapes[f"{base}positional_embedding"],
        inner=shapes[f"{base}transformer.resblocks.0.mlp.c_fc.weight"],
        layers=min(_count(shapes, f"{base}transformer.resblocks."), LAYERS_READ_OF_OPENCLIP),
        activation="gelu",
    )


_TEXT_ENCODERS = {1: _clip, 2: _openclip}


def _text_config(
    *, words: tuple[int, ...], positions: tuple[int, ...], inner: tuple[int, ...], layers: int, activation: str
) -> dict[str, Any]:
    return {
        "vocab_size": words[0],
        "max_position_embeddings": positions[0],
        "hidden_size": words[1],
        "intermediate_size": inner[0],
        "num_hidden_layers": layers,
        "num_attention_heads": words[1] // HEAD_WIDTH,
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
    }


def _count(shapes: Shapes, prefix: str) -> int:
    return len({name.removeprefix(prefix).partition(".")[0] for name in shapes if name.startswith(prefix)})


def settle_prediction(version: Literal[1, 2], asked: PredictionType | None) -> PredictionType:
    """Raises InvalidRequest for a 2.x model of which nothing was said."""
    if asked is not None:
        return asked
    if version == 2:
        raise InvalidRequest(
            "The weights of a Stable Diffusion 2.x model do not tell what it predicts.",
            "Say --prediction-type epsilon for the base models (512 pixels), v_prediction for those of 768 pixels.",
        )
    return "epsilon"


def settle_resolution(version: Literal[1, 2], prediction: PredictionType, asked: int | None) -> int:
    """Pixels. Raises InvalidRequest for a side that has no whole latent."""
    if asked is None:
        return 768 if version == 2 and prediction == "v_prediction" else 512
    if asked % LATENT_PIXELS:
        raise InvalidRequest(
            f"A resolution of {asked} is no multiple of {LATENT_PIXELS}.", "Usual are --resolution 512 and 768."
        )
    return asked


def scheduler_config(prediction: PredictionType) -> dict[str, Any]:
    """The noise schedule of all versions, with the sampler that the published pipelines name."""
    shared = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "num_train_timesteps": 1000,
        "prediction_type": prediction,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    if prediction == "v_prediction":
        return {"_class_name": "DDIMScheduler", "clip_sample": False, **shared}
    return {"_class_name": "PNDMScheduler", "skip_prk_steps": True, **shared}


def differences(architecture: Architecture, actual: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Settings of actual networks that a reader of the one file would get wrong: folder.name, sorted."""
    derived = {"unet": architecture.unet, "vae": architecture.vae, "text_encoder": architecture.text_encoder}
    return sorted(
        f"{folder}.{name}"
        for folder, config in derived.items()
        for name, value in config.items()
        if name != "_class_name" and _plain(actual[folder].get(name)) != value
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
