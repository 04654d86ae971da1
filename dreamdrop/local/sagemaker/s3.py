"""S3 as the platform uses it: prefixes to directories and back, never outside the directory that was meant."""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlparse

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from dreamdrop.local.sagemaker.errors import ClientFailure, invalid

TRANSFER_ERRORS = (BotoCoreError, ClientError, Boto3Error, OSError)


class Location(NamedTuple):
    bucket: str
    key: str

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def below(self, *parts: str) -> Location:
        stem = self.key.rstrip("/")
        return Location(self.bucket, "/".join([*([stem] if stem else []), *parts]))


def parse_location(uri: str) -> Location:
    """s3://bucket/key or https://s3.<region>.<suffix>/bucket/key. Raises SageMakerError."""
    url = urlparse(uri)
    if url.scheme == "s3":
        bucket, key = url.netloc, url.path.removeprefix("/")
    else:
        bucket, _, key = url.path.removeprefix("/").partition("/")
    if url.scheme not in ("s3", "https") or not bucket:
        raise invalid(f"{uri} is not an S3 location.")
    return Location(bucket, key)


def relative_path(key: str, prefix: str) -> PurePosixPath:
    """Where an object of a prefix belongs below the directory. Raises ClientFailure if that is outside of it."""
    relative = key.removeprefix(prefix).lstrip("/") or PurePosixPath(key).name
    path = PurePosixPath(relative)
    if ".." in path.parts or "\\" in relative or "\0" in relative:
        raise ClientFailure(f"Data download failed: the key {key!r} leaves the directory of its channel.")
    return path


def download_prefix(s3: Any, source: Location, directory: Path) -> int:
    """Every object whose key begins with the prefix; returns how many. Raises ClientFailure, also if there is none."""
    directory.mkdir(parents=True, exist_ok=True)
    count = 0
    try:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=source.bucket, Prefix=source.key):
            for item in page.get("Contents", []):
                if item["Key"].endswith("/"):  # a folder marker of the console
                    continue
                target = directory / relative_path(item["Key"], source.key)
                target.parent.mkdir(parents=True, exist_ok=True)
                s3.download_file(source.bucket, item["Key"], str(target))
                count += 1
    except TRANSFER_ERRORS as error:
        raise ClientFailure(f"Data download failed: {source.uri}: {error}") from error
    if not count:
        raise ClientFailure(f"Data download failed: No S3 objects found under S3 URL {source.uri!r}.")
    return count


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def upload_directory(s3: Any, directory: Path, target: Location) -> None:
    """Raises ClientFailure."""
    try:
        for path in files_of(directory):
            s3.upload_file(str(path), target.bucket, target.below(path.relative_to(directory).as_posix()).key)
    except TRANSFER_ERRORS as error:
        raise ClientFailure(f"Artifact upload failed: {target.uri}: {error}") from error


def upload_archive(s3: Any, directory: Path, target: Location, archive: Path) -> None:
    """As a .tar.gz with links followed, as hosting requires. Raises ClientFailure."""
    try:
        with tarfile.open(archive, "w:gz", dereference=True) as tar:
            tar.add(directory, arcname=".")
        s3.upload_file(str(archive), target.bucket, target.key)
    except TRANSFER_ERRORS as error:
        raise ClientFailure(f"Artifact upload failed: {target.uri}: {error}") from error
    finally:
        archive.unlink(missing_ok=True)


def download_archive(s3: Any, source: Location, directory: Path) -> None:
    """Fetches a .tar.gz and unpacks it. Raises ClientFailure, also for a member that leaves the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    archive = directory.with_suffix(".tar.gz")
    try:
        s3.download_file(source.bucket, source.key, str(archive))
        with tarfile.open(archive) as tar:
            tar.extractall(directory, filter="data")
    except (*TRANSFER_ERRORS, tarfile.TarError) as error:
        raise ClientFailure(f"Model download failed: {source.uri}: {error}") from error
    finally:
        archive.unlink(missing_ok=True)
