"""Imports a base model: an ordinary diffusers directory becomes base-models/<id>/ with a checksum for each file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from botocore.exceptions import ClientError
from pydantic import BaseModel, ValidationError

from contracts.artifact import (
    GENERATION_DEFAULTS,
    REQUIRED_BASE_MODEL_FILES,
    TRAINING_DEFAULTS,
    BaseModelManifest,
    FileEntry,
    checksum_of,
)
from contracts.errors import InvalidBaseModel, InvalidRequest
from contracts.generation import GenerationDefaults
from contracts.storage import BASE_MODELS, MANIFEST, as_resource_name, base_model_prefix
from contracts.training import TrainingDefaults, describe
from dreamdrop.checksums import sha256_of
from dreamdrop.deployment import Deployment

# What pickle or other code-carrying checkpoints are called; see https://huggingface.co/docs/hub/security-pickle
UNSAFE_SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".msgpack", ".h5", ".joblib", ".npy"})
WEIGHTED_COMPONENTS = ("unet", "vae", "text_encoder")
MAX_HEADER_BYTES = 100_000_000  # the safetensors format's own limit
SHA256_METADATA = "sha256"

Progress = Callable[[str, int, int], None]  # file, bytes done in all, bytes in all
Defaults = TypeVar("Defaults", bound=BaseModel)


def describe_directory(directory: Path, model_id: str, source: str, licence: str) -> BaseModelManifest:
    """The manifest of a diffusers directory on disk. Hidden files are left out.

    Raises InvalidBaseModel naming every file that is wrong, InvalidRequest for an unusable id.
    """
    base_model_prefix(model_id)
    paths = _model_files(directory)
    _check_layout(directory)
    resolution = native_resolution(
        _read_json(directory / "unet/config.json"), _read_json(directory / "vae/config.json")
    )
    files = [_entry(directory, path) for path in paths]
    return BaseModelManifest(
        id=model_id,
        files=files,
        checksum=checksum_of(files),
        resolution=resolution,
        source=source,
        licence=licence,
        training_defaults=_read_defaults(directory / TRAINING_DEFAULTS, TrainingDefaults),
        generation_defaults=_read_defaults(directory / GENERATION_DEFAULTS, GenerationDefaults),
    )


def native_resolution(unet_config: dict[str, Any], vae_config: dict[str, Any]) -> int:
    """Pixels: the UNet's latent side x 2 for each halving of the VAE. Raises InvalidBaseModel."""
    side, channels = unet_config.get("sample_size"), vae_config.get("block_out_channels")
    if not isinstance(side, int) or not isinstance(channels, list) or not channels:
        raise InvalidBaseModel("unet/config.json has no sample_size or vae/config.json no block_out_channels.")
    return side * int(2 ** (len(channels) - 1))


def import_directory(
    deployment: Deployment, directory: Path, manifest: BaseModelManifest, on_progress: Progress
) -> list[str]:
    """Uploads what the bucket lacks, manifest.json last; returns the uploaded paths, [] when nothing was missing.

    Raises InvalidRequest when the id is taken by other files: models trained on those would stop to fit; and when its
    endpoint would be that of another base model.
    """
    s3, bucket, prefix = deployment.client("s3"), deployment.data_bucket, base_model_prefix(manifest.id)
    present = imported_manifest(deployment, manifest.id)
    if present is not None and present.checksum != manifest.checksum:
        raise InvalidRequest(
            f"The base model {manifest.id} is imported already, with other files.", "Import this one under another id."
        )
    if namesake := _namesake(s3, bucket, manifest.id):
        raise InvalidRequest(
            f"The base model {manifest.id} and {namesake}, which is imported, would have one endpoint name.",
            "Import this one under another id.",
        )
    total = sum(file.size for file in manifest.files)
    done, uploaded = 0, []
    for file in manifest.files:
        if not _is_there(s3, bucket, prefix + file.path, file):
            s3.upload_file(
                str(directory / file.path),
                bucket,
                prefix + file.path,
                ExtraArgs={"Metadata": {SHA256_METADATA: file.sha256}},
            )
            uploaded.append(file.path)
        done += file.size
        on_progress(file.path, done, total)
    if present != manifest:
        body = manifest.model_dump_json(indent=2).encode()
        s3.put_object(Bucket=bucket, Key=prefix + MANIFEST, Body=body, ContentType="application/json")
        uploaded.append(MANIFEST)
    return uploaded


def _namesake(s3: Any, bucket: str, model_id: str) -> str | None:
    """Another base model, imported to the end or not, whose endpoint would have the same name."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=BASE_MODELS, Delimiter="/")
    imported = [folder["Prefix"][len(BASE_MODELS) : -1] for page in pages for folder in page.get("CommonPrefixes", [])]
    alike = (other for other in imported if as_resource_name(other) == as_resource_name(model_id))
    return next((other for other in alike if other != model_id), None)


def imported_manifest(deployment: Deployment, model_id: str) -> BaseModelManifest | None:
    """The manifest in the bucket; None when the model was never imported to the end."""
    s3 = deployment.client("s3")
    try:
        answer = s3.get_object(Bucket=deployment.data_bucket, Key=base_model_prefix(model_id) + MANIFEST)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
            return None
        raise
    return BaseModelManifest.model_validate_json(answer["Body"].read())


def _model_files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise InvalidBaseModel(
            f"{directory} is neither a directory nor a file.", "Name a diffusers directory, or a model in one file."
        )
    missing = [name for name in REQUIRED_BASE_MODEL_FILES if not (directory / name).is_file()]
    if missing:
        raise InvalidBaseModel(
            f"{directory} lacks {', '.join(missing)}.", "Name a diffusers directory, as save_pretrained() writes it."
        )
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file() and not _is_hidden(directory, path)]
    _refuse(
        [path for path in paths if path.suffix.lower() in UNSAFE_SUFFIXES],
        "may run code when they are read",
        "Convert them with save_pretrained(safe_serialization=True), or delete them if .safetensors stand beside them.",
    )
    _refuse(
        [path for path in paths if not path.resolve().is_relative_to(directory.resolve())],
        "are links that leave the directory",
        "Copy the directory with its links resolved: cp -rL FROM TO",
    )
    _refuse(
        [path for path in paths if path.suffix == ".safetensors" and not _has_safetensors_header(path)],
        "are not in the safetensors format",
        "Download them again, or convert them with save_pretrained(safe_serialization=True).",
    )
    return [path for path in paths if path != directory / MANIFEST]


def _refuse(paths: list[Path], what: str, cure: str) -> None:
    if paths:
        raise InvalidBaseModel(f"These files {what}: {', '.join(str(path) for path in paths)}.", cure)


def _is_hidden(directory: Path, path: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(directory).parts)


def _has_safetensors_header(path: Path) -> bool:
    """8 bytes of little-endian length, then JSON; see https://huggingface.co/docs/safetensors (Format)."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return 2 <= length <= min(MAX_HEADER_BYTES, path.stat().st_size - 8) and file.read(1) == b"{"


def _check_layout(directory: Path) -> None:
    lacking = [part for part in WEIGHTED_COMPONENTS if not list((directory / part).glob("*.safetensors"))]
    if lacking:
        raise InvalidBaseModel(
            f"No .safetensors weights in {', '.join(lacking)}.",
            "Only Stable Diffusion pipelines with a UNet are served.",
        )


def _read_defaults(path: Path, model: type[Defaults]) -> Defaults:
    if not path.exists():
        return model()
    try:
        return model.model_validate(_read_json(path))
    except ValidationError as error:
        raise InvalidBaseModel(f"{path}: {describe(error)}.", f"Correct {path.name}, or delete it.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidBaseModel(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidBaseModel(f"{path} holds no JSON object.")
    return content


def _entry(directory: Path, path: Path) -> FileEntry:
    name = path.relative_to(directory).as_posix()
    return FileEntry(path=name, size=path.stat().st_size, sha256=sha256_of(path))


def _is_there(s3: Any, bucket: str, key: str, file: FileEntry) -> bool:
    try:
        head = s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
            return False
        raise
    return bool(head["ContentLength"] == file.size and head["Metadata"].get(SHA256_METADATA) == file.sha256)
