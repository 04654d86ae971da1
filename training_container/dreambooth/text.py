"""Prompts as embeddings: computed once when the text encoder is frozen, at every step when it is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from training_container.dreambooth.precision import Precision


class PromptTable:
    """Every prompt of a run has a row. `embeddings(rows)` is (len(rows), tokens, width)."""

    def __init__(
        self,
        prompts: Sequence[str],
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        precision: Precision,
        *,
        trained: bool,
    ) -> None:
        self._rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        ids = tokenizer(list(self._rows), padding="max_length", truncation=True, return_tensors="pt").input_ids
        self._ids: Tensor = ids.to(precision.device)
        self._text_encoder = text_encoder
        self._precision = precision
        self._cached = None if trained else self._encode_all()

    def row(self, prompt: str) -> int:
        return self._rows[prompt]

    def embeddings(self, rows: Sequence[int]) -> Tensor:
        index = torch.tensor(rows, device=self._ids.device)
        if self._cached is not None:
            return self._cached[index]
        with self._precision.autocast():
            return encode(self._text_encoder, self._ids[index])

    def thaw(self) -> None:
        """From now on every prompt is encoded anew, with gradients."""
        self._cached = None

    def freeze(self) -> None:
        """The text encoder has changed, and will not change any more; it must be on the device."""
        self._cached = self._encode_all()

    @torch.no_grad()
    def _encode_all(self) -> Tensor:
        with self._precision.autocast():
            return encode(self._text_encoder, self._ids)


def encode(text_encoder: CLIPTextModel, ids: Tensor) -> Tensor:
    """Last hidden state, (B, tokens, width), without an attention mask: as Stable Diffusion was trained."""
    hidden: Tensor = text_encoder(input_ids=ids).last_hidden_state
    return hidden
