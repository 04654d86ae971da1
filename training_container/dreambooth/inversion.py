"""Textual inversion: the embeddings of a subject's own words are learned, and nothing else (Gal et al. 2022,
arXiv 2208.01618). DreamBooth then starts from words that already mean the subject.

The words are those that the instance prompt has and the class prompt has not: no new token is made, so every tool that
knows the tokenizer can say them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from contracts.artifact import LEARNED_WORDS, WORD_IDS, WORD_ROWS
from contracts.words import own_words
from diffusion.text_encoder import TextEncoder
from diffusion.tokenizer import Tokenizer

ROWS = "learned_rows"


def own_word_ids(tokenizer: Tokenizer, prompts: Iterable[tuple[str, str]]) -> list[int]:
    """prompts: (instance prompt, class prompt) of each subject. The tokens of the words that only the first has."""
    ids: dict[int, None] = {}
    for instance, of_class in prompts:
        own = " ".join(own_words(instance, of_class))
        ids |= dict.fromkeys(tokenizer.ids_of(own))
    return list(ids)


@contextmanager
def learnable_rows(text_encoder: TextEncoder, ids: list[int], others: Iterable[Tensor]) -> Iterator[torch.nn.Parameter]:
    """(len(ids), width) in fp32, part of the text encoder meanwhile; `others` need no gradient meanwhile.

    At the end the rows stand in the embedding table.
    """
    table = text_encoder.vocabulary
    rows = torch.nn.Parameter(table.weight.detach()[ids].float().clone())
    paused = [tensor for tensor in others if tensor.requires_grad]
    for tensor in paused:
        tensor.requires_grad_(False)
    table.register_parameter(ROWS, rows)

    def put_in(_module: object, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        for place, word in enumerate(ids):
            output = torch.where((inputs[0] == word)[..., None], rows[place].to(output.dtype), output)
        return output

    hook = table.register_forward_hook(put_in)
    try:
        yield rows
    finally:
        hook.remove()
        delattr(table, ROWS)
        set_rows(text_encoder, ids, rows.detach())
        for tensor in paused:
            tensor.requires_grad_(True)


@torch.no_grad()
def set_rows(text_encoder: TextEncoder, ids: list[int], rows: Tensor) -> None:
    weight = text_encoder.vocabulary.weight
    weight[ids] = rows.to(weight.device, weight.dtype)


def save_words(directory: Path, text_encoder: TextEncoder, ids: list[int]) -> None:
    weight = text_encoder.vocabulary.weight
    rows = weight.detach()[ids].to("cpu", torch.float32)
    save_file({WORD_IDS: torch.tensor(ids), WORD_ROWS: rows.contiguous()}, directory / LEARNED_WORDS)


def load_words(directory: Path, text_encoder: TextEncoder) -> list[int]:
    """Puts the words of an earlier training into the table. Returns their tokens; none where none were learned."""
    if not (directory / LEARNED_WORDS).is_file():
        return []
    saved = load_file(directory / LEARNED_WORDS)
    ids: list[int] = saved[WORD_IDS].tolist()
    set_rows(text_encoder, ids, saved[WORD_ROWS])
    return ids
