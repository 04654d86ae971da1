"""The imported base model's files, compared with its manifest. No torch here: it runs while the libraries load."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from contracts.artifact import REQUIRED_BASE_MODEL_FILES, BaseModelManifest, FileEntry, checksum_of
from contracts.errors import InvalidBaseModel
from contracts.storage import MANIFEST
from contracts.training import describe

FILES_AT_ONCE = 4  # a model has about as many large ones


def begin_verification(directory: Path) -> Future[BaseModelManifest]:
    """In a thread: hashing gigabytes takes seconds, and so do the imports of the main thread."""
    pool = ThreadPoolExecutor(1)
    verification = pool.submit(verify_base_model, directory)
    pool.shutdown(wait=False)
    return verification


def verify_base_model(directory: Path) -> BaseModelManifest:
    """Compares every file with manifest.json. Raises InvalidBaseModel naming the first that differs."""
    try:
        manifest = BaseModelManifest.model_validate_json((directory / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise InvalidBaseModel("The base model has no manifest.json.") from error
    except ValidationError as error:
        raise InvalidBaseModel(f"The base model's manifest.json: {describe(error)}.") from error
    listed = {entry.path for entry in manifest.files}
    missing = [name for name in REQUIRED_BASE_MODEL_FILES if name not in listed]
    if missing or manifest.checksum != checksum_of(manifest.files):
        raise InvalidBaseModel(f"The manifest of base model {manifest.id} is not whole.")
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        list(pool.map(lambda entry: _verify(directory, manifest.id, entry), manifest.files))
    return manifest


def _verify(directory: Path, base_model: str, entry: FileEntry) -> None:
    path = PurePosixPath(entry.path)
    if path.is_absolute() or ".." in path.parts:
        raise InvalidBaseModel(f"The manifest of base model {base_model} names a path outside it.")
    if not (directory / path).is_file():
        raise InvalidBaseModel(f"The base model {base_model} lacks {entry.path}.")
    if sha256_of(directory / path) != entry.sha256:
        raise InvalidBaseModel(f"{entry.path} of base model {base_model} is not what was imported.")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
