"""Words that subjects have taught the shared text encoder: spoken while they are drawn, and forgotten for the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from contracts.artifact import LEARNED_WORDS, WORD_IDS, WORD_ROWS
from diffusion.text_encoder import TextEncoder


@dataclass(frozen=True)
class Words:
    ids: Tensor  # (K,) tokens
    rows: Tensor  # (K, width) their embeddings


class Vocabulary:
    """The embedding table of a text encoder, with the words in it of those who are drawn."""

    def __init__(self, text_encoder: TextEncoder) -> None:
        self._table: Tensor = text_encoder.vocabulary.weight
        self._replaced: list[Words] = []

    def read(self, directory: Path) -> Words | None:
        """None for a subject that has taught no words. Raises ValueError if they do not fit the text encoder."""
        path = directory / LEARNED_WORDS
        if not path.is_file():
            return None
        saved = load_file(path)
        ids, rows = saved[WORD_IDS], saved[WORD_ROWS]
        size, width = self._table.shape
        if ids.dtype != torch.int64 or rows.shape != (len(ids), width) or not bool(((ids >= 0) & (ids < size)).all()):
            raise ValueError(f"{LEARNED_WORDS} does not fit the text encoder")
        return Words(ids.to(self._table.device), rows.to(self._table.device, self._table.dtype))

    @torch.no_grad()
    def speak(self, words: Sequence[Words]) -> None:
        """Raises ValueError if two subjects have learned the same word."""
        while self._replaced:
            own = self._replaced[-1]
            self._table[own.ids] = own.rows
            self._replaced.pop()  # only now: a failure before it must not lose them
        taken: set[int] = set()
        for new in words:
            if not taken.isdisjoint(new.ids.tolist()):
                raise ValueError("two of the subjects have learned the same word")
            taken |= set(new.ids.tolist())
            self._replaced.append(Words(new.ids, self._table[new.ids].clone()))
            self._table[new.ids] = new.rows
