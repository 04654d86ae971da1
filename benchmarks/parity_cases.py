"""What is trained twice, by diffusers' scripts and by our trainer, to compare the loss of every step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from contracts.training import Hyperparameters, Method
from toyworld.tiny import RESOLUTION, PredictionType
from training_container.dreambooth.draws import generator_for

STEPS = 20
PHOTOS, CLASS_PICTURES = 4, 6  # batches divide both: the reference's last batch of an epoch would be a short one
INSTANCE_PROMPT, CLASS_PROMPT = "a photo of sks toy", "a photo of a toy"
DRAWS_SEED = 11  # of the reference's global generator when its loop begins
TILES = 8
LEARNING_RATES: dict[Method, float] = {"full": 1e-4, "lora": 1e-3}  # high enough that every step changes the loss


@dataclass(frozen=True)
class Case:
    prediction_type: PredictionType
    settings: Hyperparameters


def case(method: Method, prediction_type: PredictionType, **settings: Any) -> Case:
    return Case(
        prediction_type,
        Hyperparameters(
            method=method,
            resolution=RESOLUTION,
            max_steps=STEPS,
            learning_rate=LEARNING_RATES[method],
            lora_rank=4,
            mixed_precision="no",
            num_class_images=CLASS_PICTURES,
            prior_loss_weight=0.7,
            **settings,
        ),
    )


PRIOR = {"with_prior_preservation": True}
TEXT = {"train_text_encoder": True}

CASES: dict[str, Case] = {
    "full": case("full", "epsilon"),
    "full, prior": case("full", "epsilon", **PRIOR, batch_size=2),
    "full, text encoder": case("full", "v_prediction", **TEXT),
    "full, prior, text encoder": case("full", "v_prediction", **PRIOR, **TEXT),
    "full, accumulation": case("full", "epsilon", gradient_accumulation_steps=2),
    "full, min-SNR": case("full", "epsilon", snr_gamma=5.0, batch_size=2),
    "full, min-SNR of velocities": case("full", "v_prediction", snr_gamma=5.0),
    "full, offset noise": case("full", "v_prediction", noise_offset=0.1),
    "lora": case("lora", "v_prediction"),
    "lora, prior": case("lora", "v_prediction", **PRIOR, batch_size=2),
    "lora, text encoder": case("lora", "epsilon", **TEXT),
    "lora, prior, text encoder": case("lora", "epsilon", **PRIOR, **TEXT),
    "lora, prior, accumulation": case("lora", "epsilon", **PRIOR, gradient_accumulation_steps=2),
}


def write_pictures(directory: Path, purpose: str, count: int) -> Path:
    """Coloured tiles at the training size, so that nothing is scaled and no crop is drawn."""
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        generator = generator_for(0, purpose, number)
        tiles = torch.randint(0, 256, (TILES, TILES, 3), generator=generator, dtype=torch.uint8)
        side = RESOLUTION // TILES
        pixels = tiles.repeat_interleave(side, 0).repeat_interleave(side, 1)
        Image.fromarray(pixels.numpy(), "RGB").save(directory / f"{purpose}-{number}.png")
    return directory
