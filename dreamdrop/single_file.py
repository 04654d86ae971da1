"""A model in one file (.safetensors or .ckpt) becomes a diffusers directory beside it, once; that is then imported.

The directory is kept: a base model's id belongs to its files for ever, and another version of the libraries may write
them otherwise. It records what it was made from.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.errors import InvalidRequest
from dreamdrop.checksums import sha256_of
from dreamdrop.formats import need_libraries
from dreamdrop.formats.architecture import PredictionType
from dreamdrop.formats.tokenizers import digest_of, find_tokenizer

RECORD = "single_file.json"


@dataclass(frozen=True)
class Asked:
    """What the file itself does not tell; None: the usual."""

    tokenizer: Path | None = None
    prediction_type: PredictionType | None = None
    resolution: int | None = None
    directory: Path | None = None  # where to


class Record(BaseModel):
    """single_file.json of a converted directory."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    tokenizer_sha256: str
    prediction_type: PredictionType
    resolution: int

    def answers(self, sha256: str, tokenizer_sha256: str, asked: Asked) -> bool:
        return (
            (self.sha256, self.tokenizer_sha256) == (sha256, tokenizer_sha256)
            and asked.prediction_type in (None, self.prediction_type)
            and asked.resolution in (None, self.resolution)
        )


def converted(file: Path, asked: Asked) -> Path:
    """The diffusers directory of the file, made unless it is there.

    Raises InvalidBaseModel for what is no Stable Diffusion 1.x or 2.x, InvalidRequest for what is left open or when the
    directory is taken.
    """
    need_libraries()
    tokenizer = find_tokenizer(file, asked.tokenizer)
    sha256, tokenizer_sha256 = sha256_of(file), digest_of(tokenizer)
    target = asked.directory or file.with_name(f"{file.stem}-diffusers")
    if target.exists():
        record = _read_record(target)
        if record is None or not record.answers(sha256, tokenizer_sha256, asked):
            raise InvalidRequest(
                f"{target} exists already and was not made of {file} in this way.",
                "Delete it, or name another directory: --directory DIR",
            )
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converting-") as temporary:
        partial = Path(temporary) / "model"
        prediction, side = _convert(file, partial, tokenizer, asked)
        record = Record(sha256=sha256, tokenizer_sha256=tokenizer_sha256, prediction_type=prediction, resolution=side)
        (partial / RECORD).write_text(record.model_dump_json(indent=2) + "\n")
        partial.rename(target)
    return target


def _convert(file: Path, out: Path, tokenizer: Path, asked: Asked) -> tuple[PredictionType, int]:
    from dreamdrop.formats.quiet import quiet  # from here on torch and diffusers: seconds

    with quiet():
        from dreamdrop.formats.importing import convert

        return convert(
            file, out, tokenizer=tokenizer, prediction_type=asked.prediction_type, resolution=asked.resolution
        )


def _read_record(directory: Path) -> Record | None:
    try:
        return Record.model_validate_json((directory / RECORD).read_bytes())
    except (OSError, ValidationError):
        return None
