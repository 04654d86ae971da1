"""Prompts as embeddings: computed once when the text encoder is frozen, at every step when it is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion.text_encoder import TextEncoder
from diffusion.tokenizer import Tokenizer
from training_container.dreambooth.precision import Precision


class PromptTable:
    """Every prompt of a run has a row. `embeddings(rows)` is the text encoder's last hidden state of those, (len(rows),
    tokens, width), without an attention mask: as Stable Diffusion was trained.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        tokenizer: Tokenizer,
        text_encoder: TextEncoder,
        precision: Precision,
        *,
        trained: bool,
    ) -> None:
        self._rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        self._ids = torch.tensor([tokenizer(prompt) for prompt in self._rows], device=precision.device)
        self._text_encoder = text_encoder
        self._precision = precision
        self._cached = None if trained else self._encode_all()

    def row(self, prompt: str) -> int:
        return self._rows[prompt]

    def embeddings(self, rows: Sequence[int]) -> Tensor:
        if self._cached is not None:
            return _at(self._cached, rows)
        with self._precision.autocast():
            embedded: Tensor = self._text_encoder(_at(self._ids, rows))
            return embedded

    def thaw(self) -> None:
        """From now on every prompt is encoded anew, with gradients."""
        self._cached = None

    def freeze(self) -> None:
        """The text encoder has changed, and will not change any more; it must be on the device."""
        self._cached = self._encode_all()

    @torch.no_grad()
    def _encode_all(self) -> Tensor:
        with self._precision.autocast():
            embedded: Tensor = self._text_encoder(self._ids)
            return embedded


def _at(table: Tensor, rows: Sequence[int]) -> Tensor:
    """By the host's numbers: an index that had to go to the device first would make the host wait for it."""
    return torch.stack([table[row] for row in rows])
