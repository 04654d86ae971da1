"""The client of a deployment, local or in an account: drop photos, wait for the subject, ask for pictures."""

from __future__ import annotations

import os
import re
import shlex
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

from contracts.errors import (
    DreamdropError,
    EmptyDataset,
    GenerationFailed,
    InternalError,
    InvalidFileName,
    InvalidRequest,
    SubjectNotReady,
    UnknownGeneration,
    UnknownSubject,
)
from contracts.generation import Generation, GenerationRequest, PictureSource
from contracts.pipeline import Subject, SubjectPage
from contracts.storage import CLASS_IMAGES, DATASET_INFO, GENERATION_PATTERN, check_subject, dataset_prefix
from contracts.training import IMAGE_EXTENSIONS
from dreamdrop.api import Api, error_from, fetch, store
from dreamdrop.deployment import Deployment

POLL_SECONDS = 1.0
READY_TIMEOUT_SECONDS = 6 * 3600.0
GENERATION_TIMEOUT_SECONDS = 1800.0
DELETION_TIMEOUT_SECONDS = 1200.0  # longer than the function that deletes has at a time
_OTHER_FOLDER = "Name another folder, or one that is not there yet."
SETTLE_TIMEOUT_SECONDS = 180.0  # longer than the quiet periods of infra/settings.py


class StillRunning(DreamdropError):
    """The patience of the caller ended before the work did."""

    code = "still_running"
    status = 504
    default_cure = "The work goes on; wait again, or look at it with: dreamdrop subjects"


class GenerationCancelled(DreamdropError):
    """Somebody cancelled what is waited for."""

    code = "generation_cancelled"
    status = 409
    default_cure = "Ask again; with an Idempotency-Key of your own, use a new one."


class NotTaken(DreamdropError):
    """Files lie in the bucket, but no run began."""

    code = "not_taken"
    default_cure = "Check that the files lie under datasets/<subject>/ of the data bucket and read the intake's log."


class SubjectDeleted(DreamdropError):
    """What is waited for was there, and somebody deletes it."""

    code = "subject_deleted"
    status = 409
    default_cure = "Drop it again when dreamdrop subjects does not list it any more, or under another name."


class Client:
    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._api = Api(deployment)

    def drop(self, directory: Path, subject: str, on_file: Callable[[str], None] = lambda _key: None) -> list[str]:
        """Uploads every file of the folder to datasets/<subject>/, dataset_info.json last; returns the keys.

        Raises InvalidRequest (no folder), InvalidSubjectName, EmptyDataset (no file, or a folder of datasets),
        InvalidFileName (a link that leaves it, or a name that is no UTF-8).
        """
        files = files_to_drop(directory)  # first: when it is a file, its name is not what is wrong
        prefix = dataset_prefix(check_subject(subject))
        s3 = self.deployment.client("s3")
        keys = []
        for file in files:
            key = prefix + file.relative_to(directory).as_posix()
            s3.upload_file(str(file), self.deployment.data_bucket, key)
            on_file(key)
            keys.append(key)
        return keys

    def subjects(self) -> list[Subject]:
        """GET /v1/subjects, page after page."""
        found: list[Subject] = []
        path: str | None = "/v1/subjects"
        while path:
            page = SubjectPage.model_validate(self._api.call("GET", path))
            found += page.subjects
            path = f"/v1/subjects?after={quote(page.next, safe='')}" if page.next else None
        return found

    def subject(self, name: str) -> Subject:
        """GET /v1/subjects/{subject}: with its newest run. Raises UnknownSubject."""
        return Subject.model_validate(self._api.call("GET", _subject_path(name)))

    def delete(self, name: str) -> Subject:
        """DELETE /v1/subjects/{subject}: begins it; the subject cannot be drawn any more. Raises UnknownSubject.

        Of any name: what was dropped under one that is not usable goes in the same way.
        """
        return Subject.model_validate(self._api.call("DELETE", _subject_path(name)))

    def wait_until_gone(
        self, name: str, *, timeout_seconds: float = DELETION_TIMEOUT_SECONDS, poll_seconds: float = POLL_SECONDS
    ) -> None:
        """Polls until nothing is left of a subject. Raises StillRunning."""
        deadline = time.monotonic() + timeout_seconds
        while self._find(name) is not None:
            if time.monotonic() > deadline:
                raise StillRunning(
                    f"{name} is not gone after {timeout_seconds:.0f} seconds.",
                    "The deletion goes on; deleting it again is safe, and goes on at once with what was interrupted.",
                )
            time.sleep(poll_seconds)

    def newest_run(self, name: str) -> str | None:
        """Id of the subject's newest run: what `wait_until_ready` is to be newer than.

        Raises SubjectNotReady while the subject is being deleted: what is dropped then goes with it.
        """
        found = self._find(name)
        if found and found.status == "deleting":
            raise SubjectNotReady(
                f"{name} is being deleted, and what is dropped now would go with it.", SubjectDeleted.default_cure
            )
        return found.run.id if found and found.run else None

    def wait_until_ready(
        self,
        name: str,
        on_change: Callable[[Subject], None] = lambda _subject: None,
        *,
        newer_than: str | None = None,
        timeout_seconds: float = READY_TIMEOUT_SECONDS,
        settle_seconds: float = SETTLE_TIMEOUT_SECONDS,
        poll_seconds: float = POLL_SECONDS,
    ) -> Subject:
        """Polls until the newest run has ended; on_change hears every difference.

        `newer_than` names the run that was there before the drop. When none follows it within `settle_seconds` the
        drop changed nothing, and the old run's outcome is the answer.
        Raises the error of a failed run by its own type, SubjectDeleted, NotTaken, StillRunning.
        """
        began = time.monotonic()
        seen: Subject | None = None
        while True:
            waited = time.monotonic() - began
            subject = self._find(name)
            was_there = seen is not None or newer_than is not None
            if _is_deleted(subject, was_there):
                raise SubjectDeleted(
                    f"{name} was deleted meanwhile: its training is stopped, and its photos go with it."
                )
            if subject and (_is_newer(subject, newer_than) or waited > settle_seconds):
                if subject != seen:
                    on_change(subject)
                    seen = subject
                if _has_ended(subject):
                    return subject
            elif waited > settle_seconds:
                raise NotTaken(f"No run of {name} began within {settle_seconds:.0f} seconds.")
            if waited > timeout_seconds:
                raise StillRunning(f"{name} is not ready after {timeout_seconds:.0f} seconds.")
            time.sleep(poll_seconds)

    def _find(self, name: str) -> Subject | None:
        try:
            return self.subject(name)
        except UnknownSubject:
            return None

    def upload_source(self, picture: Path) -> str:
        """POST /v1/sources and the upload. Returns what to name in `source_image` of a request.

        Raises InvalidRequest (no file, or one that is too large), Unreachable.
        """
        if not picture.is_file():
            raise InvalidRequest(f"{picture} is not a file.", "Name the picture to start from.")
        source = PictureSource.model_validate(self._api.call("POST", "/v1/sources"))
        size = picture.stat().st_size
        if size > source.max_bytes:
            raise InvalidRequest(
                f"{picture} has {size:,} bytes; at most {source.max_bytes:,} are taken.", "Scale the picture down."
            )
        store(source.upload_url, picture.read_bytes())
        return source.source_image

    def generate(self, request: GenerationRequest, idempotency_key: str | None = None) -> Generation:
        """POST /v1/generations. A key is made when none is given, so that repeats after a lost answer draw once.

        Raises InvalidRequest, UnknownSubject, SubjectNotReady, PromptRejected, IdempotencyConflict.
        """
        body = request.model_dump(mode="json", exclude_defaults=True)  # what is left open, a deployment need not know
        headers = {"idempotency-key": idempotency_key or uuid.uuid4().hex}
        return Generation.model_validate(self._api.call("POST", "/v1/generations", body, headers))

    def generation(self, generation_id: str) -> Generation:
        """GET /v1/generations/{id}. Raises UnknownGeneration."""
        return Generation.model_validate(self._api.call("GET", _generation_path(generation_id)))

    def cancel(self, generation_id: str) -> Generation:
        """DELETE /v1/generations/{id}. Raises UnknownGeneration, GenerationEnded."""
        return Generation.model_validate(self._api.call("DELETE", _generation_path(generation_id)))

    def wait_for_generation(
        self,
        generation_id: str,
        *,
        timeout_seconds: float = GENERATION_TIMEOUT_SECONDS,
        poll_seconds: float = POLL_SECONDS,
    ) -> Generation:
        """Polls until the pictures are there. Raises the generation's own error by its type, or StillRunning."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            generation = self.generation(generation_id)
            if generation.status == "succeeded":
                return generation
            if generation.status != "queued":
                raise _generation_error(generation)
            if time.monotonic() > deadline:
                raise StillRunning(f"Generation {generation_id} is {generation.status} after {timeout_seconds:.0f} s.")
            time.sleep(poll_seconds)

    def save_images(self, generation: Generation, directory: Path) -> list[Path]:
        """Fetches the pictures to <directory>/<subject>-<id>-<k>.<format>. Raises InvalidRequest, Unreachable."""
        make_folder(directory)
        saved = []
        for index, picture in enumerate(generation.images):
            suffix = Path(urlsplit(picture.url).path).suffix or ".png"
            target = directory / f"{generation.subject}-{generation.id[:8]}-{index}{suffix}"
            target.write_bytes(fetch(picture.url))
            saved.append(target)
        return saved


def _subject_path(name: str) -> str:
    """Raises UnknownSubject for what can be no folder's name: the API has no route for it."""
    if name in ("", ".", "..") or "/" in name:
        raise UnknownSubject(
            f"There is no subject {name[:64]!r}: a subject is called like one folder, without a slash.",
            "Take a name that dreamdrop subjects lists.",
        )
    return f"/v1/subjects/{quote(name, safe='')}"


def _generation_path(generation_id: str) -> str:
    """Raises UnknownGeneration for what is no id: the API has no route for it."""
    if not re.fullmatch(GENERATION_PATTERN, generation_id):
        raise UnknownGeneration(
            f"There is no generation {generation_id[:64]!r}: an id has 32 digits, 0 to 9 and a to f."
        )
    return f"/v1/generations/{generation_id}"


def make_folder(directory: Path) -> None:
    """Raises InvalidRequest when nothing can be written there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(
            f"{directory} cannot be a folder for pictures: {error.strerror}.", _OTHER_FOLDER
        ) from error
    if not os.access(directory, os.W_OK):
        raise InvalidRequest(f"Nothing can be written into the folder {directory}.", _OTHER_FOLDER)


def files_to_drop(directory: Path) -> list[Path]:
    """Every file below the folder by name, dataset_info.json at the end."""
    if not directory.is_dir():
        kind = "a file, not a folder" if directory.is_file() else "not a folder"
        raise InvalidRequest(f"{directory} is {kind}.", "Name the folder that holds the photos.")
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    leaving = [str(path) for path in files if not path.resolve().is_relative_to(directory.resolve())]
    if leaving:
        raise InvalidFileName(f"These links leave the folder: {', '.join(leaving)}.", "Copy the files themselves.")
    nameless = [ascii(path.name) for path in files if not _is_text(path.relative_to(directory).as_posix())]
    if nameless:
        raise InvalidFileName(f"These file names are no UTF-8: {', '.join(nameless)}.", "Rename the files.")
    if not files:
        raise EmptyDataset(f"{directory} holds no files.")
    datasets = [] if directory / DATASET_INFO in files else _folders_of_photos(files)
    if datasets and directory not in datasets:
        names = [str(folder) for folder in datasets]
        raise EmptyDataset(
            f"{directory} holds no photo itself; these folders in it do: {', '.join(names)}.",
            f"Drop one of them: dreamdrop drop {shlex.quote(names[0])}",
        )
    return list(_info_last(files, directory / DATASET_INFO))


def _folders_of_photos(files: list[Path]) -> list[Path]:
    photos = (file for file in files if file.name.lower().endswith(IMAGE_EXTENSIONS) and not file.name.startswith("."))
    return sorted({photo.parent for photo in photos if photo.parent.name != Path(CLASS_IMAGES).name})


def _is_text(name: str) -> bool:
    """Python reads bytes that are no UTF-8 as surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _info_last(files: list[Path], info: Path) -> Iterator[Path]:
    yield from (file for file in files if file != info)
    if info in files:
        yield info


def _generation_error(generation: Generation) -> DreamdropError:
    if generation.status == "cancelled":
        return GenerationCancelled(f"Generation {generation.id} was cancelled.")
    if generation.error is not None:
        return error_from(generation.error)
    return GenerationFailed(f"Generation {generation.id} ended as {generation.status} and recorded no reason.")


def _is_newer(subject: Subject, newer_than: str | None) -> bool:
    return subject.run is not None and subject.run.id != newer_than


def _is_deleted(subject: Subject | None, was_there: bool) -> bool:
    return subject.status == "deleting" if subject else was_there


def _has_ended(subject: Subject) -> bool:
    """Raises the run's error when it failed."""
    if subject.status == "failed":
        if subject.run is None or subject.run.error is None:
            raise InternalError(f"The newest run of {subject.subject} failed and recorded no reason.")
        raise error_from(subject.run.error)
    return subject.status == "succeeded"
