"""Where the tokenizer comes from: CLIP's vocabulary is in none of the one-file checkpoints."""

from __future__ import annotations

import hashlib
from pathlib import Path

from contracts.errors import InvalidBaseModel

FOLDER = "tokenizer"
_VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


def find_tokenizer(file: Path, asked: Path | None) -> Path:
    """The asked directory or its tokenizer/, else the tokenizer/ beside the file. Raises InvalidBaseModel."""
    candidates = [asked / FOLDER, asked] if asked else [file.parent / FOLDER]
    for directory in candidates:
        if _vocabulary(directory):
            return directory
    where = f"{asked} holds no tokenizer" if asked else f"There is no {FOLDER}/ beside {file.name}"
    raise InvalidBaseModel(
        f"{where}, and CLIP's vocabulary is not in the file itself.",
        "Say --tokenizer DIR. Any diffusers directory of Stable Diffusion has one; or fetch vocab.json and merges.txt "
        "of openai/clip-vit-large-patch14 from Hugging Face, one megabyte.",
    )


def digest_of(tokenizer: Path) -> str:
    """sha256 of the vocabulary."""
    content = b"".join(path.read_bytes() for path in _vocabulary(tokenizer))
    return hashlib.sha256(content).hexdigest()


def _vocabulary(directory: Path) -> list[Path]:
    for names in _VOCABULARIES:
        paths = [directory / name for name in names]
        if all(path.is_file() for path in paths):
            return paths
    return []
