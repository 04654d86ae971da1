"""Our trainer gives diffusers' losses, step for step, when it draws what diffusers' scripts drew.

parity.json holds the losses of examples/dreambooth/train_dreambooth.py and train_dreambooth_lora.py on the CPU in fp32,
recorded by `python -m benchmarks.parity --reference DIR --write`; repository, commit and library versions stand beside
them. Model, pictures and LoRA's first weights come from seeds. Which pictures, what noise and which timesteps a step
has comes from the stream of one generator, drawn here in the order of torch's DataLoader and of the scripts.

Left out on purpose: min-SNR weights with prior preservation. There the script weighs a photo by the timestep of its
class picture too, and the class not at all; ours weighs each picture by its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.parity_cases import (
    CASES,
    CLASS_PICTURES,
    CLASS_PROMPT,
    DRAWS_SEED,
    INSTANCE_PROMPT,
    PHOTOS,
    STEPS,
    write_pictures,
)
from benchmarks.random_models import build_tiny
from contracts.storage import CLASS_IMAGES, DATASET_INFO
from contracts.training import Hyperparameters
from tests.containers.conftest import write_manifest
from tests.containers.training_parts import build_job
from toyworld.tiny import RESOLUTION, VAE_FACTOR, PredictionType
from training_container import train as train_module
from training_container.dreambooth import batches
from training_container.dreambooth.draws import StepDraws
from training_container.dreambooth.loop import Learner, RunState, run_loop

RECORDED = json.loads(Path(__file__).with_name("parity.json").read_bytes())["cases"]
RELATIVE = 1e-5
LATENT = (4, RESOLUTION // VAE_FACTOR, RESOLUTION // VAE_FACTOR)
TIMESTEPS = 1000


@pytest.fixture(scope="module")
def base_models(tmp_path_factory: pytest.TempPathFactory) -> dict[PredictionType, Path]:
    directories: dict[PredictionType, Path] = {}
    for prediction_type in ("epsilon", "v_prediction"):
        directory = build_tiny(tmp_path_factory.mktemp("base") / prediction_type, prediction_type)
        write_manifest(directory)
        directories[prediction_type] = directory
    return directories


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_pictures(tmp_path_factory.mktemp("dataset"), "photo", PHOTOS)
    write_pictures(directory / CLASS_IMAGES, "class", CLASS_PICTURES)
    info = {"instance_prompt": INSTANCE_PROMPT, "class_prompt": CLASS_PROMPT}
    (directory / DATASET_INFO).write_text(json.dumps(info))
    return directory


def drawn_by_reference(
    settings: Hyperparameters, noise_format: torch.memory_format
) -> tuple[list[int], list[StepDraws]]:
    """The places of the pictures, to be taken modulo the number of photos or class pictures, and each pass's draws."""
    stream = torch.Generator().manual_seed(DRAWS_SEED)
    length = max(PHOTOS, CLASS_PICTURES) if settings.with_prior_preservation else PHOTOS
    pictures = settings.batch_size * (2 if settings.with_prior_preservation else 1)
    shape = (pictures, *LATENT)
    passes_an_epoch = length // settings.batch_size
    places: list[int] = []
    draws: list[StepDraws] = []
    for number in range(STEPS * settings.gradient_accumulation_steps):
        if number % passes_an_epoch == 0:
            whole_number(stream)  # for the loader's workers, though it has none
            shuffle = torch.Generator().manual_seed(whole_number(stream))
            places += torch.randperm(length, generator=shuffle).tolist()
        posterior = torch.randn(shape, generator=stream)
        noise = torch.empty(shape, memory_format=noise_format).normal_(generator=stream)
        offset = torch.zeros((*shape[:2], 1, 1))
        if settings.noise_offset:
            offset.normal_(generator=stream)
        draws.append(StepDraws(posterior, noise, torch.randint(0, TIMESTEPS, (pictures,), generator=stream), offset))
    return places, draws


def whole_number(stream: torch.Generator) -> int:
    """As the loader draws its seeds."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=stream))


@pytest.mark.parametrize("name", CASES)
def test_every_loss_is_that_of_diffusers(
    name: str,
    base_models: dict[PredictionType, Path],
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case, recorded = CASES[name], RECORDED[name]
    noise_format = torch.channels_last if recorded["channels_last"] else torch.contiguous_format
    places, draws = drawn_by_reference(case.settings, noise_format)
    left = iter(draws)
    runs: list[RunState] = []

    def sample_indices(_seed: int, _purpose: str, first: int, count: int, population: int) -> list[int]:
        return [place % population for place in places[first : first + count]]

    def watched(learner: Learner, state: RunState, *positional: Any, **named: Any) -> bool:
        runs.append(state)
        return run_loop(learner, state, *positional, **named)

    monkeypatch.setattr(batches, "sample_indices", sample_indices)
    monkeypatch.setattr(StepDraws, "of", lambda *_: next(left))
    monkeypatch.setattr(train_module, "run_loop", watched)
    asked = case.settings.model_dump(exclude_unset=True)
    train_module.train(build_job(tmp_path / "job", base_models[case.prediction_type], dataset, **asked))

    passes = torch.tensor(recorded["losses"], dtype=torch.float64).view(STEPS, -1)
    assert runs[0].losses == pytest.approx(passes.mean(1).tolist(), rel=RELATIVE, abs=0)
    assert next(left, None) is None
