"""Records as JSON files, one a name, written so that a reader never sees half of one."""

from __future__ import annotations

import copy
import json
import os
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{threading.get_ident()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


class RecordStore:
    """Thread-safe. Hands out copies; names are the validated names of the API, so they are safe as file names."""

    def __init__(self, directory: Path) -> None:
        """Raises ValueError for a file that is not a record, naming it."""
        self._directory = directory
        self._directory.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._records: dict[str, Record] = {}
        for path in sorted(directory.glob("*.json")):
            try:
                self._records[path.stem] = json.loads(path.read_text())
            except ValueError as error:
                raise ValueError(f"{path} is not a record of the local SageMaker; delete it. ({error})") from error

    def transaction(self) -> AbstractContextManager[object]:
        """Nothing else changes between the reads and the writes inside of it."""
        return self._lock

    def get(self, name: str) -> Record | None:
        with self._lock:
            record = self._records.get(name)
            return copy.deepcopy(record)

    def all(self) -> list[Record]:
        with self._lock:
            return copy.deepcopy(list(self._records.values()))

    def add(self, name: str, record: Record) -> bool:
        """False when the name is taken; nothing is changed then."""
        with self._lock:
            if name in self._records:
                return False
            self._put(name, record)
            return True

    def update(self, name: str, **changes: Any) -> Record:
        """Changes some members; a change to None removes the member. Raises KeyError for an unknown name."""
        with self._lock:
            record = {**self._records[name], **changes}
            self._put(name, {key: value for key, value in record.items() if value is not None})
            return copy.deepcopy(self._records[name])

    def delete(self, name: str) -> Record | None:
        with self._lock:
            record = self._records.pop(name, None)
            if record is not None:
                self._path(name).unlink(missing_ok=True)
            return record

    def _put(self, name: str, record: Record) -> None:
        record = copy.deepcopy(record)
        write_atomically(self._path(name), json.dumps(record, indent=1))
        self._records[name] = record

    def _path(self, name: str) -> Path:
        if not name or os.sep in name or name.startswith("."):
            raise ValueError(f"{name!r} cannot name a record.")
        return self._directory / f"{name}.json"
