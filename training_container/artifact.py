"""What the job leaves in model/: the trained weights, sample pictures, and, written last, artifact.json."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path, PurePosixPath

from torch import nn

from contracts.artifact import (
    ARTIFACT,
    Artifact,
    BaseModelManifest,
    FileEntry,
    SampleCheck,
    TrainingSummary,
)
from contracts.training import Concept, Hyperparameters
from diffusion.files import read_text_encoder, write_network
from diffusion.verification import sha256_of
from training_container.dreambooth.inversion import save_words, set_rows
from training_container.dreambooth.lora import LoraSettings, save_adapters
from training_container.dreambooth.sampling import Drawn
from training_container.dreambooth.trainable import Trainable
from training_container.model_card import MODEL_CARD, PictureCount, render_model_card
from training_container.platform import write_atomically
from training_container.settings import TrainingSettings

SAMPLES = "samples"
LIBRARIES = ("torch", "safetensors", "tokenizers", "bitsandbytes")


def empty_directory(directory: Path) -> None:
    """A restarted job may find half a model. The directory itself is a mount and stays."""
    directory.mkdir(parents=True, exist_ok=True)
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def save_weights(
    directory: Path,
    base: Path,
    manifest: BaseModelManifest,
    model: Trainable,
    settings: Hyperparameters,
    words: list[int],
    before: Path,
) -> None:
    """lora: adapters, and the words (tokens) that were learned. full: a complete diffusers directory, its changed
    parts in the base model's number format.

    before: the model that the training began with, the base model or an earlier full one. A frozen text encoder is
    that one's but for the words: the one in memory may be rounded to half precision.
    """
    if settings.method == "lora":
        adapted = model.text_encoder if settings.train_text_encoder else None
        save_adapters(directory, model.unet, adapted, LoraSettings.of(settings))
        if words:
            save_words(directory, model.text_encoder, words)
        return
    trained: dict[str, nn.Module] = {"unet": model.unet}
    if settings.train_text_encoder:
        trained["text_encoder"] = model.text_encoder
    elif words or before != base:
        trained["text_encoder"] = stored = read_text_encoder(before / "text_encoder")
        set_rows(stored, words, model.text_encoder.vocabulary.weight[words])
    for entry in manifest.files:
        if PurePosixPath(entry.path).parts[0] not in trained:
            (directory / entry.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / entry.path, directory / entry.path)
    for name, module in trained.items():
        write_network(module, directory / name, like=base / name)


def save_samples(directory: Path, drawn: list[Drawn]) -> list[SampleCheck]:
    (directory / SAMPLES).mkdir(parents=True, exist_ok=True)
    checks = []
    for number, sample in enumerate(drawn):
        path = f"{SAMPLES}/sample-{number}.png"
        sample.picture.save(directory / path, format="PNG")
        checks.append(SampleCheck(path=path, finite=sample.finite, contrast=sample.contrast))
    return checks


def library_versions() -> dict[str, str]:
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue  # bitsandbytes is optional
    return versions


def write_artifact(
    directory: Path,
    manifest: BaseModelManifest,
    settings: TrainingSettings,
    summary: TrainingSummary,
    pictures: PictureCount,
    words: list[int],
) -> Artifact:
    """Adds the model card and describes every file that is in the directory by then."""
    described = Artifact(
        method=settings.hyperparameters.method,
        base_model=manifest.id,
        base_model_checksum=manifest.checksum,
        instance_prompt=settings.main.instance_prompt,
        class_prompt=settings.main.class_prompt,
        concepts=[
            Concept(folder=other.folder, instance_prompt=other.instance_prompt, class_prompt=other.class_prompt)
            for other in settings.subjects[1:]
        ],
        continued_from=settings.continue_from,
        learned_words=words,
        resolution=settings.hyperparameters.resolution or manifest.resolution,
        hyperparameters=settings.hyperparameters,
        training=summary,
        versions=library_versions(),
        files=[],
    )
    (directory / MODEL_CARD).write_text(render_model_card(described, manifest, pictures), encoding="utf-8")
    files = [
        FileEntry(path=path.relative_to(directory).as_posix(), size=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    ]
    artifact = described.model_copy(update={"files": files})
    write_atomically(directory / ARTIFACT, artifact.model_dump_json(indent=2))
    return artifact
