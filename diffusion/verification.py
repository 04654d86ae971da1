"""Files compared with the manifest that describes them: nothing is read from them before size and sha256 agree.

No torch here: a base model is verified while the libraries load.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from contracts.artifact import REQUIRED_BASE_MODEL_FILES, BaseModelManifest, FileEntry, checksum_of
from contracts.errors import InvalidBaseModel
from contracts.storage import MANIFEST
from contracts.training import describe

_READ_FOLDERS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
_FILES_AT_ONCE = 4  # a model has about as many large ones


class DamagedFile(Exception):
    """A file is missing, differs from its description or would lie outside its directory."""


def begin_verification(directory: Path) -> Future[BaseModelManifest]:
    """Of a base model, in a thread: hashing gigabytes takes seconds, and so do the imports of the main thread."""
    pool = ThreadPoolExecutor(1)
    verification = pool.submit(verify_base_model, directory)
    pool.shutdown(wait=False)
    return verification


def verify_base_model(directory: Path) -> BaseModelManifest:
    """Compares every file with manifest.json. Raises InvalidBaseModel naming the first that differs or is too many."""
    try:
        manifest = BaseModelManifest.model_validate_json((directory / MANIFEST).read_bytes())
    except OSError as error:
        raise InvalidBaseModel(f"The base model's {MANIFEST} cannot be read ({error.strerror}).") from error
    except ValidationError as error:
        raise InvalidBaseModel(f"The base model's {MANIFEST}: {describe(error)}.") from error
    described = {entry.path for entry in manifest.files}
    if manifest.checksum != checksum_of(manifest.files) or not described.issuperset(REQUIRED_BASE_MODEL_FILES):
        raise InvalidBaseModel(f"The manifest of base model {manifest.id} is not whole.")
    try:
        verify(directory, manifest.files)
    except (OSError, DamagedFile) as error:
        raise InvalidBaseModel(f"The base model {manifest.id} is not what was imported: {error}.") from error
    if strays := unlisted(directory, manifest.files, _READ_FOLDERS):
        raise InvalidBaseModel(
            f"The base model {manifest.id} has a file that was not imported with it: {strays[0]}.",
            "Delete that file from the base model's folder in the data bucket, or import the model under another id.",
        )
    return manifest


def unlisted(directory: Path, files: list[FileEntry], among: Iterable[str]) -> list[str]:
    """Files of those names, or in folders of those names, that nothing describes: one may decide what is read."""
    listed = {entry.path for entry in files}
    below = (path for name in among for path in (directory / name, *(directory / name).rglob("*")))
    found = (path.relative_to(directory).as_posix() for path in below if path.is_file())
    return sorted(path for path in found if path not in listed)


def path_within(directory: Path, relative: str) -> Path:
    """Raises DamagedFile for a path that could leave the directory or means different files on different systems."""
    parts = PurePosixPath(relative).parts
    if not parts or relative.startswith("/") or ".." in parts or "\\" in relative or "\0" in relative:
        raise DamagedFile(f"the path {relative[:80]!r} leaves its directory")
    return directory.joinpath(*parts)


def verify(directory: Path, files: list[FileEntry]) -> None:
    """Several at once. Raises DamagedFile naming the first file that is not as described."""
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        list(pool.map(lambda entry: _verify_one(directory, entry), files))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify_one(directory: Path, entry: FileEntry) -> None:
    path = path_within(directory, entry.path)
    if not path.is_file():
        raise DamagedFile(f"{entry.path} is missing")
    if path.stat().st_size != entry.size:
        raise DamagedFile(f"{entry.path} has {path.stat().st_size} bytes instead of {entry.size}")
    if sha256_of(path) != entry.sha256:
        raise DamagedFile(f"{entry.path} differs from its sha256")
