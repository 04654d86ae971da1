"""Published versions of subjects: fetched from the data bucket, checked, and kept on disk up to a number of bytes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from contracts.artifact import LEARNED_WORDS, LORA_WEIGHTS, Artifact, FileEntry, PromotedVersion, VersionManifest
from contracts.errors import HostingFailed, InvalidRequest, UnknownSubject
from contracts.storage import promoted_key, version_manifest_key, version_prefix
from diffusion.verification import DamagedFile, path_within, verify

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_TRAINABLE_FOLDERS = ("unet", "text_encoder")  # the rest of a full model is the base model's
READ_OF_SUBJECTS = (*_TRAINABLE_FOLDERS, LORA_WEIGHTS, LEARNED_WORDS)
_PARTIAL = ".partial-"
_MEBIBYTE = 2**20
_FILES_AT_ONCE = 4
_RANGES = TransferConfig(multipart_threshold=16 * _MEBIBYTE, multipart_chunksize=16 * _MEBIBYTE, max_concurrency=8)
_NOT_THERE = ("NoSuchKey", "404")

Answer = TypeVar("Answer")


class SubjectStore:
    """Not for several processes on one directory."""

    def __init__(self, s3: S3Client, bucket: str, directory: Path, budget_bytes: int) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._directory = directory
        self._budget_bytes = budget_bytes
        directory.mkdir(parents=True, exist_ok=True)
        for left_over in directory.glob(f"{_PARTIAL}*"):
            shutil.rmtree(left_over)

    def promoted(self, subject: str) -> str:
        """The version that is drawn when none is named. Raises UnknownSubject or HostingFailed."""
        content = self.read(promoted_key(subject))
        if content is None:
            raise UnknownSubject(f"There is no subject {subject}.")
        try:
            return PromotedVersion.model_validate_json(content).version
        except ValidationError as error:
            raise HostingFailed(f"The promoted version of {subject} cannot be told.") from error

    def exists(self, subject: str, version: str) -> bool:
        """Raises HostingFailed when the bucket cannot be read."""
        key = version_manifest_key(subject, version)
        return _found(key, lambda: self._s3.head_object(Bucket=self._bucket, Key=key)) is not None

    def kept(self) -> set[str]:
        """Names of the directories on disk."""
        return {path.name for path in self._directory.iterdir() if not path.name.startswith(_PARTIAL)}

    def forget(self, name: str) -> None:
        """Off the disk."""
        shutil.rmtree(self._directory / name, ignore_errors=True)

    def read(self, key: str, most_bytes: int | None = None) -> bytes | None:
        """None when there is no such object. Raises HostingFailed, or InvalidRequest when it is larger than that."""
        return _found(key, lambda: self._content(key, most_bytes))

    def _content(self, key: str, most_bytes: int | None) -> bytes:
        answer = self._s3.get_object(Bucket=self._bucket, Key=key)
        if most_bytes is not None and answer["ContentLength"] > most_bytes:
            raise InvalidRequest(f"{key} has more than {most_bytes} bytes.", "Upload a smaller one.")
        return answer["Body"].read()

    def manifest(self, subject: str, version: str) -> VersionManifest:
        """Raises UnknownSubject, or HostingFailed when the bucket cannot be read or the manifest is not one."""
        content = self.read(version_manifest_key(subject, version))
        if content is None:
            raise UnknownSubject(f"There is no version {version} of subject {subject}.")
        try:
            manifest = VersionManifest.model_validate_json(content)
        except ValidationError as error:
            raise HostingFailed(f"The manifest of {subject} {version} is damaged.") from error
        own_prefix = version_prefix(subject, version)
        inside = manifest.prefix.startswith(own_prefix) and manifest.prefix.endswith("/")
        if (manifest.subject, manifest.version) != (subject, version) or not inside:
            raise HostingFailed(f"The manifest of {subject} {version} describes something else.")
        return manifest

    def fetch(self, manifest: VersionManifest) -> Path:
        """A directory with the files that drawing needs, verified just now.

        Raises HostingFailed when they cannot be had whole.
        """
        files = needed_files(f"{manifest.subject} {manifest.version}", manifest.artifact)
        directory = self._directory / f"{manifest.subject}_{manifest.version}"
        if directory.is_dir():
            try:
                verify(directory, files)
            except DamagedFile:
                shutil.rmtree(directory)
        if not directory.is_dir():
            self._make_room(sum(entry.size for entry in files))
            self._download(manifest, files, directory)
        os.utime(directory)  # the time of the last use orders the evictions
        return directory

    def _download(self, manifest: VersionManifest, files: list[FileEntry], directory: Path) -> None:
        """Into a partial directory that gets its name once it is complete: half a model is never seen.

        Large files come in several ranges at once, and several files at once: one stream does not fill the network.
        """
        with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=self._directory) as temporary:
            partial = Path(temporary) / "files"
            partial.mkdir()
            try:
                with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
                    list(pool.map(lambda entry: self._download_file(manifest.prefix, entry, partial), files))
            except (ClientError, BotoCoreError, DamagedFile, OSError) as error:
                name = f"{manifest.subject} {manifest.version}"
                raise HostingFailed(f"The model {name} cannot be fetched whole: {error}.") from error
            partial.rename(directory)

    def _download_file(self, prefix: str, entry: FileEntry, directory: Path) -> None:
        """Verified at once, while the others still come. Raises DamagedFile."""
        target = path_within(directory, entry.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._s3.download_file(self._bucket, prefix + entry.path, str(target), Config=_RANGES)
        verify(directory, [entry])

    def _make_room(self, wanted_bytes: int) -> None:
        kept = {path: _size(path) for path in self._directory.iterdir() if path.is_dir()}
        for path in sorted(kept, key=lambda path: path.stat().st_mtime_ns):
            if sum(kept.values()) + wanted_bytes <= self._budget_bytes:
                return
            shutil.rmtree(path)
            del kept[path]


def needed_files(name: str, artifact: Artifact) -> list[FileEntry]:
    """The adapter alone for method lora; the trained parts for method full. All else stays behind.

    Raises HostingFailed when the model of that name lacks its weights or a path leaves the directory.
    """
    for entry in artifact.files:
        try:
            path_within(Path(), entry.path)
        except DamagedFile as error:
            raise HostingFailed(f"The manifest of {name} is not usable: {error}.") from error
    if artifact.method == "lora":
        files = [entry for entry in artifact.files if entry.path in (LORA_WEIGHTS, LEARNED_WORDS)]
    else:
        files = [entry for entry in artifact.files if entry.path.partition("/")[0] in _TRAINABLE_FOLDERS]
    if not any(entry.path.endswith(".safetensors") for entry in files):
        raise HostingFailed(f"The model {name} has no weights.")
    return files


def _found(key: str, ask: Callable[[], Answer]) -> Answer | None:
    """None when there is no such object. Raises HostingFailed when the bucket does not tell."""
    try:
        return ask()
    except ClientError as error:
        if error.response["Error"]["Code"] in _NOT_THERE:
            return None
        raise HostingFailed(f"{key} cannot be read ({error}).") from error
    except BotoCoreError as error:
        raise HostingFailed(f"{key} cannot be read ({error}).") from error


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
