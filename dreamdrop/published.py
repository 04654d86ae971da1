"""What lies in the bucket, fetched and checked: a published version's manifest, and the files that a manifest names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from botocore.exceptions import ClientError

from contracts.artifact import FileEntry, VersionManifest
from contracts.errors import InternalError, UnknownSubject
from contracts.storage import version_manifest_key
from dreamdrop.base_models import Progress
from dreamdrop.checksums import sha256_of
from dreamdrop.deployment import Deployment


def version_manifest(deployment: Deployment, subject: str, version: str) -> VersionManifest:
    """Raises UnknownSubject when there is no such version, InvalidRequest for what can be none."""
    key = version_manifest_key(subject, version)
    try:
        answer = deployment.client("s3").get_object(Bucket=deployment.data_bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
            raise UnknownSubject(
                f"There is no version {version} of subject {subject}.",
                f"Leave --version out for the one that is served, or see: dreamdrop subject {subject}",
            ) from error
        raise
    return VersionManifest.model_validate_json(answer["Body"].read())


def fetch_files(
    deployment: Deployment, prefix: str, files: Sequence[FileEntry], directory: Path, on_progress: Progress
) -> None:
    """Raises InternalError naming the first file that is not what its manifest says."""
    s3 = deployment.client("s3")
    total, done = sum(file.size for file in files), 0
    for file in files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts or "\\" in file.path:
            raise InternalError(f"The manifest under {prefix} names a path outside it: {file.path!r}.")
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(deployment.data_bucket, prefix + file.path, str(target))
        if sha256_of(target) != file.sha256:
            raise InternalError(f"{prefix}{file.path} is not what was published.", "Train the subject again.")
        done += file.size
        on_progress(file.path, done, total)
