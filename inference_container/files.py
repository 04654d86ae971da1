"""Files that were described by a manifest: nothing is read from them before size and sha256 agree."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from contracts.artifact import FileEntry

_FILES_AT_ONCE = 4  # a model has about as many large ones


class DamagedFile(Exception):
    """A file is missing, differs from its description or would lie outside its directory."""


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


def _verify_one(directory: Path, entry: FileEntry) -> None:
    path = path_within(directory, entry.path)
    if not path.is_file():
        raise DamagedFile(f"{entry.path} is missing")
    if path.stat().st_size != entry.size:
        raise DamagedFile(f"{entry.path} has {path.stat().st_size} bytes instead of {entry.size}")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            raise DamagedFile(f"{entry.path} differs from its sha256")
