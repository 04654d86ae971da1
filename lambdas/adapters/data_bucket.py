"""The data bucket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlparse

from botocore.exceptions import ClientError

from contracts.artifact import BaseModelManifest, VersionManifest
from contracts.errors import DatasetChanged, InternalError, InvalidRequest, UnknownBaseModel
from contracts.storage import MANIFEST, base_model_prefix, version_manifest_key
from lambdas.adapters.clients import client, error_code

_ABSENT = ("NoSuchKey", "404", "NotFound")
_CHANGED = ("PreconditionFailed", "412", *_ABSENT)
_BEING_WRITTEN = ("ConditionalRequestConflict", "409")


@dataclass(frozen=True)
class StoredObject:
    key: str
    etag: str
    size: int
    modified: datetime


@dataclass(frozen=True)
class Tagged:
    content: bytes
    etag: str


class DataBucket:
    def __init__(self, name: str) -> None:
        self.name = name
        self._s3 = client("s3")

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Folder markers left out."""
        for page in self._s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):
                    modified = item["LastModified"].astimezone(UTC)
                    yield StoredObject(item["Key"], item["ETag"].strip('"'), item["Size"], modified)

    def exists(self, key: str) -> bool:
        try:
            self._s3.head_object(Bucket=self.name, Key=key)
        except ClientError as error:
            if error_code(error) in _ABSENT:
                return False
            raise
        return True

    def count(self, prefix: str) -> int:
        return sum(1 for _ in self.list(prefix))

    def read(self, key: str) -> bytes | None:
        """None when there is no such object."""
        found = self.read_tagged(key)
        return found.content if found else None

    def read_tagged(self, key: str) -> Tagged | None:
        """With what `replace` wants to know. None when there is no such object."""
        try:
            answer = self._s3.get_object(Bucket=self.name, Key=key)
        except ClientError as error:
            if error_code(error) in _ABSENT:
                return None
            raise
        return Tagged(answer["Body"].read(), answer["ETag"])

    def read_unchanged(self, key: str, etag: str) -> bytes:
        """Raises DatasetChanged when the object is another one by now, or gone."""
        try:
            answer = self._s3.get_object(Bucket=self.name, Key=key, IfMatch=etag)
        except ClientError as error:
            raise self._as_changed(error, key) from error
        content: bytes = answer["Body"].read()
        return content

    def copy_unchanged(self, source: str, etag: str, target: str) -> None:
        """Within the bucket, without passing through the function. Raises DatasetChanged."""
        try:
            self._s3.copy_object(
                Bucket=self.name,
                Key=target,
                CopySource={"Bucket": self.name, "Key": source},
                CopySourceIfMatch=etag,
                TaggingDirective="REPLACE",  # copying the uploader's tags would need two more rights
            )
        except ClientError as error:
            raise self._as_changed(error, source) from error

    def write(
        self,
        key: str,
        content: bytes,
        content_type: str = "application/json",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """The metadata are ASCII, 2 KB at most."""
        self._s3.put_object(
            Bucket=self.name, Key=key, Body=content, ContentType=content_type, Metadata=dict(metadata or {})
        )

    def replace(self, key: str, content: bytes, etag: str | None) -> bool:
        """Writes over the object that was read with this ETag, or where none was. False when that is no longer so.

        https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        try:
            self._s3.put_object(Bucket=self.name, Key=key, Body=content, ContentType="application/json", **condition)
        except ClientError as error:
            if error_code(error) in (*_CHANGED, *_BEING_WRITTEN):
                return False
            raise
        return True

    def erase(self, prefix: str, endings: tuple[str, ...] = ("",)) -> int:
        """Deletes what begins and ends so, with all its versions and delete markers; how many those were.

        Looks again until it finds nothing: a listing need not be whole when what it has passed goes away meanwhile.
        Raises InternalError if one would not go.
        """
        erased = 0
        while found := self._erase_once(prefix, endings):
            erased += found
        return erased

    def _erase_once(self, prefix: str, endings: tuple[str, ...]) -> int:
        """A page of the listing holds as many as one DeleteObjects takes."""
        erased = 0
        for page in self._s3.get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix=prefix):
            found = [
                {"Key": item["Key"], "VersionId": item["VersionId"]}
                for item in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
                if item["Key"].endswith(endings)
            ]
            if found:
                answer = self._s3.delete_objects(Bucket=self.name, Delete={"Objects": found, "Quiet": True})
                if refused := answer.get("Errors"):
                    raise InternalError(f"{len(refused)} objects below {prefix} were not deleted: {refused[0]}")
                erased += len(found)
        return erased

    def key_of(self, uri: str) -> str | None:
        """s3://<this bucket>/key -> key; None for any other bucket."""
        parts = urlparse(uri)
        return parts.path.lstrip("/") if parts.scheme == "s3" and parts.netloc == self.name else None

    def link(self, key: str, seconds: int) -> str:
        """A presigned address for GET."""
        return self._presigned("get_object", key, seconds)

    def upload_link(self, key: str, seconds: int) -> str:
        """A presigned address for PUT."""
        return self._presigned("put_object", key, seconds)

    def _presigned(self, operation: Literal["get_object", "put_object"], key: str, seconds: int) -> str:
        parameters = {"Bucket": self.name, "Key": key}
        url: str = self._s3.generate_presigned_url(operation, Params=parameters, ExpiresIn=seconds)
        return url

    def version_manifest(self, subject: str, version: str) -> VersionManifest | None:
        """None when no such version was published."""
        content = self.read(version_manifest_key(subject, version))
        return VersionManifest.model_validate_json(content) if content else None

    def base_model(self, base_model: str) -> BaseModelManifest:
        """Raises UnknownBaseModel."""
        try:
            content = self.read(base_model_prefix(base_model) + MANIFEST)
        except InvalidRequest:
            content = None
        if content is None:
            raise UnknownBaseModel(f"There is no base model {base_model!r} in the bucket.")
        return BaseModelManifest.model_validate_json(content)

    @staticmethod
    def _as_changed(error: ClientError, key: str) -> Exception:
        if error_code(error) in _CHANGED:
            return DatasetChanged(f"{key} was replaced or deleted after the dataset was taken.")
        return error
