"""What is in a dataset: JumpStart's layout, told apart from everything else that lies in the folder."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from contracts.errors import EmptyDataset, InvalidFileName, TooManyImages
from contracts.pipeline import Run, TakenFile
from contracts.storage import CLASS_IMAGES, DATASET_INFO
from contracts.training import CAPTION_EXTENSION, IMAGE_EXTENSIONS, MAX_CLASS_IMAGES, MAX_INSTANCE_IMAGES

MAX_FILE_NAME = 255  # bytes, of Linux
SHOWN = 5
KEPT_IGNORED = 20


@dataclass(frozen=True)
class Layout:
    instance_images: list[TakenFile]
    class_images: list[TakenFile]
    captions: list[TakenFile]
    ignored: list[str]


def shown(items: list[str], elsewhere: str = "") -> str:
    """a, b, c, d, e and 3 more; elsewhere: where those are told."""
    first = ", ".join(items[:SHOWN])
    return first if len(items) <= SHOWN else f"{first} and {len(items) - SHOWN} more{elsewhere}"


def names(paths: list[str]) -> str:
    return shown([repr(path) for path in paths])


def is_superseded(event_time: datetime, newest_upload: datetime) -> bool:
    """True when something arrived after the upload that this event tells of: that one's own event follows.

    S3 gives both times in whole seconds, hence the second of grace; two events of the same second both go on, and
    meet in one execution name.
    """
    return newest_upload > event_time + timedelta(seconds=1)


def dataset_id(
    bucket: str, subject: str, files: list[TakenFile], again: int = 0, deleted_at: datetime | None = None
) -> str:
    """12 hex digits that name exactly these contents: equal uploads train once.

    `again` counts how often the same contents were dropped anew after another dataset or after a failure. `deleted_at`:
    when a former subject of the name was deleted; this one has nothing in common with it, also not the runs' names.
    """
    content: list[Any] = [bucket, subject, sorted((file.path, file.etag) for file in files), again]
    if deleted_at:
        content.append(deleted_at.isoformat())
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def is_settled_by(run: Run, newest: bool, newest_upload: datetime) -> bool:
    """Whether this run of the same contents answers the upload: it is the subject's newest, and if it failed, nothing
    has been uploaded since it was taken. Going back to earlier photos, or dropping them again after a failure, is a
    new run. Both times are S3's: the clocks of functions may differ from it and from each other."""
    since = run.uploaded_at is None or newest_upload > run.uploaded_at
    return newest and not (run.status == "failed" and since)


def info_of(files: list[TakenFile]) -> TakenFile | None:
    return next((file for file in files if file.path == DATASET_INFO), None)


def lay_out(files: list[TakenFile], concepts: Sequence[str] = ()) -> Layout:
    """concepts: folders with the photos of further subjects. Raises InvalidFileName, EmptyDataset or TooManyImages."""
    unsafe = [file.path for file in files if not _is_safe(file.path)]
    if unsafe:
        raise InvalidFileName(f"These file names are not usable: {names(unsafe)}.")
    folders = ["", *(f"{folder}/" for folder in concepts)]
    instance = {folder: [file for file in files if _is_image_in(folder, file.path)] for folder in folders}
    photos = [file for found in instance.values() for file in found]
    klass = [file for folder in folders for file in files if _is_image_in(folder + CLASS_IMAGES, file.path)]
    beside = {_stem(file.path) + CAPTION_EXTENSION for file in photos}
    captions = [file for file in files if file.path in beside]
    used = {file.path for file in [*photos, *klass, *captions]} | {DATASET_INFO}
    ignored = sorted(file.path for file in files if file.path not in used)
    also = f" It holds only {names(ignored)}, which cannot be used." if ignored and not photos else ""
    for folder, found in instance.items():
        if not found:
            where = f" in its folder {folder}, which dataset_info.json names" if folder else ""
            cure = f"Upload photos to {folder} of the dataset, or leave the folder out of concepts." if folder else None
            raise EmptyDataset(f"The dataset has no photo{where}.{also}", cure)
    for kind, found, limit in (
        ("photos", photos, MAX_INSTANCE_IMAGES),
        ("class images", klass, MAX_CLASS_IMAGES),
    ):
        if len(found) > limit:
            raise TooManyImages(f"The dataset has {len(found)} {kind}; at most {limit} can be used.")
    return Layout(sorted(photos, key=_path), sorted(klass, key=_path), sorted(captions, key=_path), ignored)


def shortened(ignored: list[str]) -> list[str]:
    """What travels through the state machine, whose payloads are bounded; the report has them all."""
    more = len(ignored) - KEPT_IGNORED
    return ignored if more <= 0 else [*ignored[:KEPT_IGNORED], f"and {more} more"]


def _path(file: TakenFile) -> str:
    return file.path


def _is_safe(path: str) -> bool:
    parts = path.split("/")
    return all(part not in ("", ".", "..") and len(part.encode()) <= MAX_FILE_NAME for part in parts) and not any(
        character == "\\" or unicodedata.category(character) == "Cc" for character in path
    )


def _is_image_in(folder: str, path: str) -> bool:
    """folder: empty, or with a slash at its end. Not of a folder below."""
    name = path.removeprefix(folder)
    is_there = path.startswith(folder) and "/" not in name
    return is_there and name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")


def _stem(path: str) -> str:
    return path.rpartition(".")[0]
