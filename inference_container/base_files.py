"""The base model's files, compared with its manifest. No torch here: it runs while the libraries load."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pydantic import ValidationError

from contracts.artifact import REQUIRED_BASE_MODEL_FILES, BaseModelManifest, checksum_of
from contracts.errors import InvalidBaseModel
from contracts.storage import MANIFEST
from inference_container.files import DamagedFile, verify


def begin_verification(directory: Path) -> Future[BaseModelManifest]:
    """In a thread: hashing gigabytes takes seconds, and so do the imports of the main thread."""
    pool = ThreadPoolExecutor(1)
    verification = pool.submit(verify_base_model, directory)
    pool.shutdown(wait=False)
    return verification


def verify_base_model(directory: Path) -> BaseModelManifest:
    """Raises InvalidBaseModel."""
    try:
        manifest = BaseModelManifest.model_validate_json((directory / MANIFEST).read_bytes())
        verify(directory, manifest.files)
    except (OSError, ValidationError, DamagedFile) as error:
        raise InvalidBaseModel(f"The base model in {directory} is not usable: {error}.") from error
    described = {entry.path for entry in manifest.files}
    if manifest.checksum != checksum_of(manifest.files) or not described.issuperset(REQUIRED_BASE_MODEL_FILES):
        raise InvalidBaseModel(f"The manifest of the base model {manifest.id} contradicts itself.")
    return manifest
