"""Training and drawing load torch, and none of the libraries that take as long again. A process for each: they stay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.containers.training_parts import REPOSITORY, build_job

HEAVY = {"accelerate", "diffusers", "peft", "scipy", "torch._dynamo", "torchvision", "transformers"}
TELL = f"print('HEAVY', sorted({HEAVY} & set(sys.modules)))"
TRAIN = f"""
import sys
from training_container.__main__ import main
code = main(["train"])
{TELL}
sys.exit(code)
"""
DRAW = f"""
import os, sys
from contracts.generation import InferencePayload
from diffusion.verification import begin_verification
from inference_container.drawing import build_generator
from inference_container.platform import Platform
platform = Platform.from_environment(os.environ)
generator = build_generator(platform, begin_verification(platform.model_directory))
for scheduler in {{schedulers}}:
    [drawn] = generator.draw([InferencePayload(prompt="a dog", scheduler=scheduler, num_inference_steps=2)])
    assert drawn.pictures[0].shape == (64, 64, 3)
{TELL}
"""


def run(code: str, base: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "SAGEMAKER_BASE_DIR": str(base), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return next(line for line in done.stdout.splitlines() if line.startswith("HEAVY"))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_training_loads_nothing_heavy(
    method: str, tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    options = {"with_prior_preservation": True, "num_class_images": 2, "train_text_encoder": True, "save_steps": 2}
    job = build_job(tmp_path / "job", tiny_base_model, small_dataset, method=method, max_steps=3, **options)
    assert run(TRAIN, tmp_path / "job") == "HEAVY []"
    assert (job.model / "artifact.json").is_file()


def test_drawing_loads_nothing_heavy(tmp_path: Path, tiny_base_model: Path) -> None:
    (tmp_path / "model").symlink_to(tiny_base_model)
    schedulers = ["ddim", "pndm", "lms", "dpmsolver++", "euler", "euler_a", "unipc"]
    assert run(DRAW.replace("{schedulers}", repr(schedulers)), tmp_path) == "HEAVY []"
