"""CheckpointConfig: a directory restored from S3 at the start and synchronised to S3 while the job runs."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

from dreamdrop.local.sagemaker.errors import ClientFailure
from dreamdrop.local.sagemaker.s3 import TRANSFER_ERRORS, Location, download_prefix, files_of

logger = logging.getLogger(__name__)

_Signature = tuple[int, int]  # modification time in nanoseconds, size in bytes


class CheckpointSync:
    """Uploads what changed. As in SageMaker, a deleted local file stays in S3."""

    def __init__(self, s3: Any, directory: Path, target: Location, interval_seconds: float) -> None:
        self._s3 = s3
        self._directory = directory
        self._target = target
        self._interval = interval_seconds
        self._uploaded: dict[Path, _Signature] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name=f"checkpoints-{directory.parent.name}", daemon=True)

    def restore(self) -> None:
        """Raises ClientFailure; an empty prefix is a first start."""
        self._directory.mkdir(parents=True, exist_ok=True)
        prefix = Location(self._target.bucket, self._target.key.rstrip("/") + "/" if self._target.key else "")
        try:
            found = self._s3.list_objects_v2(Bucket=prefix.bucket, Prefix=prefix.key, MaxKeys=1).get("KeyCount", 0)
        except TRANSFER_ERRORS as error:
            raise ClientFailure(f"Checkpoint download failed: {self._target.uri}: {error}") from error
        if found:
            download_prefix(self._s3, prefix, self._directory)
        self._uploaded = {path: _signature_of(path.stat()) for path in files_of(self._directory)}

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Ends the repetition and uploads the rest. Raises ClientFailure."""
        self._stop.set()
        self._thread.join()
        try:
            self._push()
        except TRANSFER_ERRORS as error:
            raise ClientFailure(f"Checkpoint upload failed: {self._target.uri}: {error}") from error

    def abandon(self) -> None:
        self._stop.set()

    def _repeat(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self._push()
            except TRANSFER_ERRORS:  # the last one, in `finish`, decides
                logger.warning("Checkpoints of %s were not synchronised.", self._directory, exc_info=True)

    def _push(self) -> None:
        for path in files_of(self._directory):
            if _is_hidden(path.relative_to(self._directory)):
                continue
            key = self._target.below(path.relative_to(self._directory).as_posix()).key
            try:
                # Opened once: were a file replaced by a shorter one between the look at its size and the sending, the
                # server would wait for the rest for ever.
                with path.open("rb") as file:
                    signature = _signature_of(os.fstat(file.fileno()))
                    if self._uploaded.get(path) == signature:
                        continue
                    self._s3.upload_fileobj(file, self._target.bucket, key)
            except FileNotFoundError:  # renamed or removed by the program meanwhile
                continue
            self._uploaded[path] = signature


def _is_hidden(path: Path) -> bool:
    """A file that grows while it is sent leaves the server waiting: programs write such ones under a hidden name."""
    return any(part.startswith(".") for part in path.parts)


def _signature_of(status: os.stat_result) -> _Signature:
    return status.st_mtime_ns, status.st_size
