"""Builds the directory tree of a training job and runs it, in this process or as the real program."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image

from contracts.artifact import ARTIFACT, Artifact
from contracts.storage import DATASET_INFO
from training_container.platform import Platform
from training_container.train import train

REPOSITORY = Path(__file__).resolve().parents[2]
LORA = "pytorch_lora_weights.safetensors"
FEW_STEPS = {"max_steps": "6", "learning_rate": "1e-3", "lora_rank": "4", "save_steps": "1000"}


def build_job(base: Path, model: Path, dataset: Path, **hyperparameters: object) -> Platform:
    """A base directory as SageMaker prepares it. The dataset is copied, the model linked."""
    (base / "input" / "config").mkdir(parents=True)
    shutil.copytree(dataset, base / "input" / "data" / "training")
    (base / "input" / "data" / "model").symlink_to(model)
    values = {**FEW_STEPS, **{name: str(value) for name, value in hyperparameters.items()}}
    (base / "input" / "config" / "hyperparameters.json").write_text(json.dumps(values))
    return Platform(base)


def run_job(base: Path, model: Path, dataset: Path, **hyperparameters: object) -> Platform:
    platform = build_job(base, model, dataset, **hyperparameters)
    train(platform)
    return platform


def artifact_of(platform: Platform) -> Artifact:
    return Artifact.model_validate_json((platform.model / ARTIFACT).read_bytes())


def weight_digests(directory: Path) -> dict[str, str]:
    """sha256 of every weight file, by relative path."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*.safetensors"))
    }


def start_program(base: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "training_container", "train"],
        cwd=REPOSITORY,
        env={**os.environ, "SAGEMAKER_BASE_DIR": str(base), "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(program: subprocess.Popen[str]) -> tuple[str, str]:
    """What it wrote to standard output and error; a program that hangs is killed."""
    try:
        return program.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        program.kill()
        raise


def change_info(platform: Platform, **fields: object) -> None:
    path = platform.dataset / DATASET_INFO
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def pipeline(directory: Path) -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(directory)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: StableDiffusionPipeline) -> Image.Image:
    generator = torch.Generator().manual_seed(0)
    return pipe("a photo of sks toy", num_inference_steps=3, generator=generator).images[0]


def changed_parts(trained: Path, base: Path) -> set[str]:
    before, after = weight_digests(base), weight_digests(trained)
    assert before.keys() == after.keys()
    return {name.split("/")[0] for name in before if before[name] != after[name]}
