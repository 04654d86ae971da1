"""What has been measured so far, one file a unit of work, so that an interrupted measurement goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from contracts.artifact import BaseModelManifest, checksum_of

KEY_CHARACTERS = 12
SHEET_COLUMNS = 6

Record = dict[str, Any]


def key_of(*parts: object) -> str:
    """Short, and different for different settings; parts are JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:KEY_CHARACTERS]


def model_key(manifest: BaseModelManifest) -> str:
    """Of the files that draw and judge, all in folders: a new README or new training defaults change no picture."""
    return checksum_of([entry for entry in manifest.files if "/" in entry.path])[:KEY_CHARACTERS]


@dataclass(frozen=True)
class Records:
    """Names are paths without a suffix, relative to the root."""

    root: Path

    def path(self, name: str, suffix: str = "") -> Path:
        return self.root / f"{name}{suffix}"

    def read(self, name: str) -> Record | None:
        """None if there is no such record."""
        path = self.path(name, ".json")
        if not path.is_file():
            return None
        record: Record = json.loads(path.read_text(encoding="utf-8"))
        return record

    def write(self, name: str, record: Record) -> Record:
        """Whole or not at all. Returns the record."""
        path = self.path(name, ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
        return record

    def forget(self, name: str) -> None:
        self.path(name, ".json").unlink(missing_ok=True)

    def write_pictures(self, name: str, pictures: Sequence[Image.Image], record: Record) -> None:
        """One sheet; the record, written last, says that it is whole."""
        path = self.path(name, ".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet_of(pictures).save(path)
        self.write(name, record | {"pictures": len(pictures)})

    def read_pictures(self, name: str) -> list[Image.Image] | None:
        record = self.read(name)
        if record is None:
            return None
        with Image.open(self.path(name, ".png")) as sheet:
            return pictures_of(sheet, record["pictures"])


def sheet_of(pictures: Sequence[Image.Image]) -> Image.Image:
    """Square pictures of one size, row by row."""
    side = pictures[0].width
    rows = -(-len(pictures) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * side, rows * side))
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % SHEET_COLUMNS * side, number // SHEET_COLUMNS * side))
    return sheet


def pictures_of(sheet: Image.Image, count: int) -> list[Image.Image]:
    side = sheet.width // SHEET_COLUMNS
    corners = [(number % SHEET_COLUMNS * side, number // SHEET_COLUMNS * side) for number in range(count)]
    return [sheet.crop((left, top, left + side, top + side)) for left, top in corners]
