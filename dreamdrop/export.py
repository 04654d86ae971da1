"""Takes a published version out of the bucket, in the format that another program loads."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Literal

from contracts.artifact import LEARNED_WORDS, LORA_WEIGHTS, FileEntry, VersionManifest
from contracts.errors import InvalidBaseModel, InvalidRequest, UnknownBaseModel
from contracts.storage import base_model_prefix
from dreamdrop.base_models import WEIGHTED_COMPONENTS, Progress, imported_manifest
from dreamdrop.deployment import Deployment
from dreamdrop.formats import Dtype, need_libraries
from dreamdrop.formats.architecture import DOWN_BLOCKS
from dreamdrop.published import fetch_files

Format = Literal["diffusers", "comfyui", "checkpoint"]

DEFAULT_DTYPE: Dtype = "fp16"
ENDING = ".safetensors"
UNET_CONFIG = "unet/config.json"


def export(
    deployment: Deployment,
    manifest: VersionManifest,
    form: Format,
    out: Path,
    dtype: Dtype | None,
    on_progress: Progress,
) -> None:
    """diffusers: the published files as they are. comfyui: one LoRA file. checkpoint: the whole model in one file.

    `out` appears once it is complete. Raises InvalidRequest for what the version cannot be written as, UnknownBaseModel
    and InvalidBaseModel when the base model to merge with is not there as it was.
    """
    _check(manifest, form, out, dtype)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".exporting-") as temporary:
        work = Path(temporary)
        if form == "comfyui":
            _check_structure(deployment, manifest, work)
        trained = work / "trained"
        fetch_files(deployment, manifest.prefix, _wanted(manifest, form), trained, on_progress)
        if form == "diffusers":
            trained.rename(out)
            return
        model, adapter = trained, None
        if manifest.artifact.method == "lora":
            adapter = trained / LORA_WEIGHTS
            if form == "checkpoint":
                model = _fetch_base_model(deployment, manifest, work / "base", on_progress)
        result = work / f"result{ENDING}"
        _convert(model, adapter, form, result, dtype or DEFAULT_DTYPE)
        result.rename(out)


def _convert(model: Path, adapter: Path | None, form: Format, out: Path, dtype: Dtype) -> None:
    from dreamdrop.formats.quiet import quiet  # from here on torch and diffusers: seconds

    with quiet():
        from dreamdrop.formats.exporting import write_checkpoint
        from dreamdrop.formats.kohya import write_kohya

        if form == "comfyui" and adapter:
            write_kohya(adapter, out, dtype)
        else:
            write_checkpoint(model, out, dtype, adapter)


def _check(manifest: VersionManifest, form: Format, out: Path, dtype: Dtype | None) -> None:
    if out.exists():
        raise InvalidRequest(f"{out} exists already.", "Name another path, or delete it.")
    if form == "diffusers":
        if dtype is not None:
            raise InvalidRequest(
                "The diffusers format hands out the published files, whose number format is what it is.",
                "Leave --dtype out.",
            )
        return
    need_libraries()
    if out.suffix != ENDING:
        raise InvalidRequest(f"{out} does not end in {ENDING}.", f"Name the file to write: OUT{ENDING}")
    if form == "comfyui" and manifest.artifact.method != "lora":
        raise InvalidRequest(
            f"{manifest.subject} {manifest.version} is a full model and has no LoRA.", "Use --format checkpoint."
        )
    if form == "comfyui" and any(file.path == LEARNED_WORDS for file in manifest.artifact.files):
        raise InvalidRequest(
            f"{manifest.subject} {manifest.version} has learned words, which a LoRA file cannot carry.",
            "Use --format checkpoint.",
        )


def _check_structure(deployment: Deployment, manifest: VersionManifest, directory: Path) -> None:
    """Of the base model, by its UNet's blocks; one that is no longer in the bucket cannot be asked."""
    name = manifest.artifact.base_model
    base = imported_manifest(deployment, name)
    configs = [file for file in base.files if file.path == UNET_CONFIG] if base else []
    fetch_files(deployment, base_model_prefix(name), configs, directory, lambda _file, _done, _total: None)
    for config in configs:
        if json.loads((directory / config.path).read_bytes()).get("down_block_types") != DOWN_BLOCKS:
            raise InvalidRequest(
                f"{manifest.subject} was trained on {name}, which is not built like Stable Diffusion 1.x or 2.x; "
                "ComfyUI and A1111 load no others.",
                "Use --format diffusers.",
            )


def _wanted(manifest: VersionManifest, form: Format) -> list[FileEntry]:
    files = manifest.artifact.files
    if form == "diffusers":
        return files
    if manifest.artifact.method == "lora":
        return [file for file in files if file.path in (LORA_WEIGHTS, LEARNED_WORDS)]
    return _networks(files)


def _networks(files: list[FileEntry]) -> list[FileEntry]:
    return [file for file in files if file.path.partition("/")[0] in WEIGHTED_COMPONENTS]


def _fetch_base_model(
    deployment: Deployment, manifest: VersionManifest, directory: Path, on_progress: Progress
) -> Path:
    name = manifest.artifact.base_model
    base = imported_manifest(deployment, name)
    if base is None:
        raise UnknownBaseModel(f"The base model {name} is no longer in the bucket.", "Import it again: import-base.")
    if base.checksum != manifest.artifact.base_model_checksum:
        raise InvalidBaseModel(f"The base model {name} is another than {manifest.subject} was trained on.")
    fetch_files(deployment, base_model_prefix(name), _networks(base.files), directory, on_progress)
    return directory
