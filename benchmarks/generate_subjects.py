"""Subjects to switch between, with random weights: as a training leaves them, and published in a bucket."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.artifact import LORA_WEIGHTS, Artifact, BaseModelManifest, FileEntry, TrainingSummary, VersionManifest
from contracts.storage import MANIFEST, version_manifest_key, version_prefix
from contracts.training import Hyperparameters, Method
from dreamdrop.checksums import sha256_of

BUCKET = "data"
VERSION = "0123456789ab-1"
LORA_RANK = 4
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
LORA_DEVIATION = 0.1
FULL_DEVIATION = 0.02  # of each weight's own deviation: pictures become others, and stay pictures


@dataclass(frozen=True)
class Subject:
    name: str
    method: Method
    directory: Path  # what diffusers loads: an adapter, or a whole pipeline


def make_subjects(base_model: Path, folder: Path) -> list[Subject]:
    """Two of each method."""
    return [
        *(Subject(f"lora-{seed}", "lora", make_lora(base_model, folder / f"lora-{seed}", seed)) for seed in (1, 2)),
        *(Subject(f"full-{seed}", "full", make_full(base_model, folder / f"full-{seed}", seed)) for seed in (3, 4)),
    ]


def make_lora(base_model: Path, out: Path, seed: int) -> Path:
    import torch
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = _read_unet(base_model)
    unet.add_adapter(LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=list(LORA_TARGETS)))
    torch.manual_seed(seed)
    for name, weight in unet.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=LORA_DEVIATION)
    StableDiffusionPipeline.save_lora_weights(out, unet_lora_layers=get_peft_model_state_dict(unet))
    return out


def make_full(base_model: Path, out: Path, seed: int) -> Path:
    """A pipeline's directory; all but the UNet are links into the base model's."""
    import torch

    unet = _read_unet(base_model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in unet.parameters():
            if weight.numel() > 1:
                weight.add_(torch.randn_like(weight), alpha=FULL_DEVIATION * float(weight.std()))
    unet.save_pretrained(out / "unet")
    for part in base_model.iterdir():
        if part.name not in ("unet", MANIFEST):
            (out / part.name).symlink_to(part.resolve())
    return out


def _read_unet(base_model: Path) -> Any:
    import torch
    from diffusers import UNet2DConditionModel

    reader: Any = UNet2DConditionModel
    return reader.from_pretrained(base_model / "unet", dtype=torch.float32)


def publish(subject: Subject, base_model: Path, folder: Path) -> None:
    """Into the folder of a bucket server; the files themselves are linked."""
    prefix = f"{version_prefix(subject.name, VERSION)}job/output/model/"
    (folder / BUCKET / prefix).parent.mkdir(parents=True)
    (folder / BUCKET / prefix).symlink_to(subject.directory.resolve())
    manifest = VersionManifest(
        subject=subject.name,
        version=VERSION,
        prefix=prefix,
        dataset_id=VERSION.partition("-")[0],
        training_job="job",
        published_at=datetime.now(UTC),
        artifact=_artifact(subject, BaseModelManifest.model_validate_json((base_model / MANIFEST).read_bytes())),
    )
    key = version_manifest_key(subject.name, VERSION)
    (folder / BUCKET / key).write_text(manifest.model_dump_json(), encoding="utf-8")


def _artifact(subject: Subject, base: BaseModelManifest) -> Artifact:
    trained = LORA_WEIGHTS if subject.method == "lora" else "unet/*"
    return Artifact(
        method=subject.method,
        base_model=base.id,
        base_model_checksum=base.checksum,
        instance_prompt="a photo of sks toy",
        class_prompt=None,
        resolution=base.resolution,
        hyperparameters=Hyperparameters(method=subject.method),
        training=TrainingSummary(
            steps=1, seconds=1, first_loss=1, last_loss=1, held_out_before=1, held_out_after=1, samples=[]
        ),
        versions={},
        files=[_entry(subject.directory, path) for path in sorted(subject.directory.glob(trained))],
    )


def _entry(directory: Path, path: Path) -> FileEntry:
    return FileEntry(path=path.relative_to(directory).as_posix(), size=path.stat().st_size, sha256=sha256_of(path))
