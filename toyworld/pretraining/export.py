"""Writes the finished base model: an ordinary diffusers directory in half precision, its scorers, its record."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from torch import nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, ResNetForImageClassification

from contracts.artifact import GENERATION_DEFAULTS, TRAINING_DEFAULTS, BaseModelManifest, FileEntry, checksum_of
from contracts.generation import GenerationDefaults
from contracts.storage import MANIFEST
from contracts.training import Hyperparameters, TrainingDefaults
from toyworld.pictures import SIDE
from toyworld.pretraining.denoiser import scheduler
from toyworld.pretraining.fit import STEPS_BETWEEN_REPORTS
from toyworld.scorers import CLASSIFIER, CLIP, INSTANCE

MODEL_ID = "toyworld"
LICENCE = "Apache-2.0"
COMMAND = "make toyworld"
RECORD = "training.json"
SCORERS = "scorers"
KEPT_REPORTS = 5  # of the log: every fifth
TRAINING = TrainingDefaults(
    # The text encoder stays as it is: trained with the rest, it forgets the places.
    lora=Hyperparameters(max_steps=150, batch_size=4, learning_rate=1e-3, lora_targets="all", num_class_images=24),
    full=Hyperparameters(max_steps=250, batch_size=4, learning_rate=2e-4, num_class_images=24),
)
GENERATION = GenerationDefaults(num_inference_steps=25, guidance_scale=4.0, scheduler="dpmsolver++")
MODEL_CARD = Path(__file__).parent / "model_card.md"


@dataclass(frozen=True)
class Parts:
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    clip: CLIPModel
    classifier: ResNetForImageClassification
    instance: ResNetForImageClassification


def write_model(out: Path, parts: Parts, logs: Mapping[str, Path]) -> None:
    """Replaces what is there. manifest.json comes last."""
    shutil.rmtree(out, ignore_errors=True)
    modules: list[nn.Module] = [
        parts.text_encoder, parts.vae, parts.unet, parts.clip, parts.classifier, parts.instance
    ]  # fmt: skip
    for module in modules:
        nn.Module.to(module, "cpu", torch.float16, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=scheduler(),  # type: ignore[arg-type]  # one of those that it works with
        safety_checker=None,  # type: ignore[arg-type]  # optional, though not by its hint
        feature_extractor=None,  # type: ignore[arg-type]  # the same
        requires_safety_checker=False,
    ).save_pretrained(out, safe_serialization=True)
    parts.clip.save_pretrained(out / SCORERS / CLIP)
    parts.tokenizer.save_pretrained(out / SCORERS / CLIP)
    parts.classifier.save_pretrained(out / SCORERS / CLASSIFIER)
    parts.instance.save_pretrained(out / SCORERS / INSTANCE)
    (out / RECORD).write_text(json.dumps(record(logs), indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(MODEL_CARD, out / "README.md")
    (out / TRAINING_DEFAULTS).write_text(TRAINING.model_dump_json(indent=2) + "\n", encoding="utf-8")
    generation = GENERATION.model_dump_json(indent=2, exclude_none=True)
    (out / GENERATION_DEFAULTS).write_text(generation + "\n", encoding="utf-8")
    write_manifest(out)


def record(logs: Mapping[str, Path]) -> dict[str, object]:
    """What made the weights: commit, command, machine, and the log of each stage, thinned out."""
    return {
        "command": COMMAND,
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "toyworld")),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
        "stages": {name: _thinned(path) for name, path in logs.items()},
    }


def _git(*arguments: str) -> str | None:
    answer = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None


def _thinned(path: Path) -> list[dict[str, float]]:
    """A log that was taken up again repeats some steps: the last account of each counts."""
    entries = {int(entry["step"]): entry for entry in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    newest = max(entries)
    wanted = KEPT_REPORTS * STEPS_BETWEEN_REPORTS
    return [entries[step] for step in sorted(entries) if step % wanted == 0 or step == newest]


def write_manifest(out: Path) -> BaseModelManifest:
    files = [
        FileEntry(
            path=path.relative_to(out).as_posix(),
            size=path.stat().st_size,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(out.rglob("*"))
        if path.is_file() and path != out / MANIFEST
    ]
    manifest = BaseModelManifest(
        id=MODEL_ID,
        files=files,
        checksum=checksum_of(files),
        resolution=SIDE,
        source="pretrained by this project on pictures that it draws; see README.md beside the weights",
        licence=LICENCE,
        training_defaults=TRAINING,
        generation_defaults=GENERATION,
    )
    (out / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest
