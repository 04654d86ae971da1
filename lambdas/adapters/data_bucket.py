"""The data bucket."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlparse

from botocore.exceptions import ClientError

from contracts.artifact import BaseModelManifest
from contracts.errors import DatasetChanged, InvalidRequest, UnknownBaseModel
from contracts.storage import MANIFEST, base_model_prefix
from lambdas.adapters.clients import client, error_code

_ABSENT = ("NoSuchKey", "404", "NotFound")
_CHANGED = ("PreconditionFailed", "412", *_ABSENT)


@dataclass(frozen=True)
class StoredObject:
    key: str
    etag: str
    size: int
    modified: datetime


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

    def count(self, prefix: str) -> int:
        return sum(1 for _ in self.list(prefix))

    def read(self, key: str) -> bytes | None:
        """None when there is no such object."""
        try:
            content: bytes = self._s3.get_object(Bucket=self.name, Key=key)["Body"].read()
        except ClientError as error:
            if error_code(error) in _ABSENT:
                return None
            raise
        return content

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

    def write(self, key: str, content: bytes, content_type: str = "application/json") -> None:
        self._s3.put_object(Bucket=self.name, Key=key, Body=content, ContentType=content_type)

    def key_of(self, uri: str) -> str | None:
        """s3://<this bucket>/key -> key; None for any other bucket."""
        parts = urlparse(uri)
        return parts.path.lstrip("/") if parts.scheme == "s3" and parts.netloc == self.name else None

    def link(self, key: str, seconds: int) -> str:
        """A presigned address for GET."""
        parameters = {"Bucket": self.name, "Key": key}
        url: str = self._s3.generate_presigned_url("get_object", Params=parameters, ExpiresIn=seconds)
        return url

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
