"""diffusers' DreamBooth examples: which version, where it lies, and our hyperparameters as its flags.

The scripts are no part of this repository: whoever measures fetches them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from contracts.training import Hyperparameters, Method

REPOSITORY = "https://github.com/huggingface/diffusers"
COMMIT = "58eb52c0803ea9af3abec60841c2a093bdf1f951"
SCRIPTS: Mapping[Method, str] = {
    "full": "examples/dreambooth/train_dreambooth.py",
    "lora": "examples/dreambooth/train_dreambooth_lora.py",
}
OFFSET_NOISE = 0.1  # the only strength that the full script knows
NEVER = 10**6  # steps

HOW_TO_GET = f"""\
The reference is missing: {{missing}}
It is two example scripts of {REPOSITORY} at commit {COMMIT}:
{chr(10).join(f"  {path}" for path in SCRIPTS.values())}
To fetch them, outside this repository:
  git clone --filter=blob:none --no-checkout {REPOSITORY} DIR
  git -C DIR checkout {COMMIT} -- {" ".join(SCRIPTS.values())}
They import torchvision, in the version that belongs to the installed torch. Then: --reference DIR"""


class ReferenceMissing(Exception):
    """Its text says how to get it."""


@dataclass(frozen=True)
class Inputs:
    """What one training reads and where it writes."""

    base_model: Path
    photos: Path
    class_pictures: Path
    instance_prompt: str
    class_prompt: str
    out: Path


def find_scripts(directory: Path | None) -> dict[Method, Path]:
    """Raises ReferenceMissing."""
    if directory is None:
        raise ReferenceMissing(HOW_TO_GET.format(missing="no directory was named"))
    scripts = {method: directory / path for method, path in SCRIPTS.items()}
    for script in scripts.values():
        if not script.is_file():
            raise ReferenceMissing(HOW_TO_GET.format(missing=script))
    return scripts


def account_of(scripts: Mapping[Method, Path]) -> dict[str, object]:
    """Which reference it was, for the records."""
    digests = {SCRIPTS[method]: hashlib.sha256(script.read_bytes()).hexdigest() for method, script in scripts.items()}
    return {"repository": REPOSITORY, "commit": COMMIT, "sha256": digests}


def flags_of(settings: Hyperparameters, inputs: Inputs) -> list[str]:
    """The same training in the words of the reference. Raises ValueError for what it has no words for."""
    own_ways = [
        settings.max_steps is None,
        settings.mixed_precision == "auto",
        settings.noise_offset not in (0, OFFSET_NOISE),
        settings.lora_targets != "attention",
        settings.lora_alpha not in (None, settings.lora_rank),
        settings.use_ema,
        settings.random_flip,
    ]
    if any(own_ways):
        raise ValueError(f"the reference cannot do this: {settings}")
    values: dict[str, object] = {
        "pretrained_model_name_or_path": inputs.base_model,
        "instance_data_dir": inputs.photos,
        "instance_prompt": inputs.instance_prompt,
        "output_dir": inputs.out,
        "seed": settings.seed,
        "resolution": settings.resolution,
        "train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "max_train_steps": settings.max_steps,
        "checkpointing_steps": NEVER,
        "learning_rate": settings.effective_learning_rate,
        "lr_scheduler": settings.lr_scheduler,
        "lr_warmup_steps": settings.lr_warmup_steps,
        "adam_beta1": settings.adam_beta1,
        "adam_beta2": settings.adam_beta2,
        "adam_weight_decay": settings.adam_weight_decay,
        "adam_epsilon": settings.adam_epsilon,
        "max_grad_norm": settings.max_grad_norm,
        "mixed_precision": settings.mixed_precision,
    }
    if settings.method == "lora":
        values["rank"] = settings.lora_rank
    if settings.with_prior_preservation:
        values |= {
            "class_data_dir": inputs.class_pictures,
            "class_prompt": inputs.class_prompt,
            "num_class_images": settings.num_class_images,
            "prior_loss_weight": settings.prior_loss_weight,
        }
    if settings.snr_gamma is not None:
        values["snr_gamma"] = settings.snr_gamma
    switches = {
        "with_prior_preservation": settings.with_prior_preservation,
        "train_text_encoder": settings.train_text_encoder,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "center_crop": settings.center_crop,
        "offset_noise": settings.noise_offset > 0,
    }
    named = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    return named + [f"--{name}" for name, wanted in switches.items() if wanted]
