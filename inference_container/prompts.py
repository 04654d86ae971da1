"""Prompts as embeddings: of any length, with weighed parts.

A text encoder reads 77 tokens. A longer prompt is read in pieces of 75, each with its own begin and end, and the UNet
attends to all of them. `(red scarf:1.4)` multiplies the embeddings of those tokens; the norm of all stays as it was.
Other brackets are text like any other, as in JumpStart's contract.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from contracts.generation import WEIGHED_PART
from diffusion.tokenizer import Tokenizer
from inference_container.networks import Networks

MAX_WEIGHT = 4.0  # beyond it pictures fall apart


class Part(NamedTuple):
    text: str
    weight: float


@dataclass(frozen=True)
class TokenPieces:
    ids: Tensor  # (pieces, tokens)
    weights: Tensor  # (pieces, tokens)


def split_weights(prompt: str) -> list[Part]:
    """'a dog with a (red scarf:1.4)' -> ('a dog with a ', 1), ('red scarf', 1.4)."""
    parts: list[Part] = []
    start = 0
    for found in WEIGHED_PART.finditer(prompt):
        parts.append(Part(prompt[start : found.start()], 1.0))
        parts.append(Part(found[1], min(float(found[2]), MAX_WEIGHT)))
        start = found.end()
    parts.append(Part(prompt[start:], 1.0))
    return [part for part in parts if part.text.strip()] or [Part("", 1.0)]


def tokenise(tokenizer: Tokenizer, prompt: str) -> TokenPieces:
    """Full pieces but for the last, which is filled up as the tokenizer fills up a short prompt."""
    tokens: list[int] = []
    weights: list[float] = []
    for part in split_weights(prompt):
        ids = tokenizer.ids_of(part.text)
        tokens += ids
        weights += [part.weight] * len(ids)
    room = tokenizer.length - 2
    pieces = [
        (tokens[start : start + room], weights[start : start + room]) for start in range(0, max(1, len(tokens)), room)
    ]
    return TokenPieces(
        torch.tensor([tokenizer.framed(ids) for ids, _ in pieces]),
        torch.tensor([[1.0, *own, *[1.0] * (tokenizer.length - 1 - len(own))] for _, own in pieces]),
    )


def embed(networks: Networks, prompt: str) -> Tensor:
    """(1, pieces x tokens, width)."""
    pieces = tokenise(networks.tokenizer, prompt)
    hidden: Tensor = networks.text_encoder(pieces.ids.to(networks.device))
    if bool((pieces.weights != 1).any()):
        weighed = hidden * pieces.weights.to(hidden)[..., None]
        hidden = weighed * (hidden.norm() / weighed.norm())
    return hidden.reshape(1, -1, hidden.shape[-1])


def as_long_as(embeddings: Tensor, other: Tensor, empty: Tensor) -> Tensor:
    """Filled up with the embeddings of the empty prompt."""
    missing = (other.shape[1] - embeddings.shape[1]) // empty.shape[1]
    return torch.cat([embeddings, *[empty] * missing], dim=1) if missing > 0 else embeddings
