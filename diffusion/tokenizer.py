"""CLIP's tokenizer: byte-pair encoding of lower-case words, between a begin and an end.

Sennrich et al. 2016, arXiv 1508.07909; Radford et al. 2021, arXiv 2103.00020.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
WHOLE, VOCABULARY, MERGES, SETTINGS, SPECIALS = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


class Tokenizer:
    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Sequence[tuple[str, str]],
        *,
        pad: str = END,
        added: Sequence[AddedToken] = (),
        length: int = LENGTH,
    ) -> None:
        """pad: the token that fills up short texts. length: of a text with its begin and end."""
        model = BPE(
            dict(vocabulary), list(merges), end_of_word_suffix="</w>", continuing_subword_prefix="", unk_token=END
        )
        self._backend = Backend(model)
        self._backend.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        self._backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        self._backend.add_tokens(list(added))
        self._backend.add_special_tokens([BEGIN, END, pad])
        self.length = length
        self.begin, self.end, self.pad = (self._number_of(token) for token in (BEGIN, END, pad))

    @classmethod
    def from_directory(cls, directory: Path) -> Tokenizer:
        """Raises OSError, ValueError or KeyError if the files are not those of a CLIP tokenizer."""
        settings = _settings(directory)
        whole = json.loads((directory / WHOLE).read_text()) if (directory / WHOLE).is_file() else {}
        vocabulary = whole["model"]["vocab"] if whole else json.loads((directory / VOCABULARY).read_text())
        merges = whole["model"]["merges"] if whole else _lines(directory / MERGES)
        if not {BEGIN, END} <= vocabulary.keys():
            raise ValueError(f"the tokenizer lacks {BEGIN} or {END}")
        return cls(
            vocabulary,
            [_pair(merge) for merge in merges],
            pad=_content(settings.get("pad_token") or END),
            added=_added_tokens(whole, settings),
            length=int(settings.get("model_max_length", LENGTH)),
        )

    def _number_of(self, token: str) -> int:
        number = self._backend.token_to_id(token)
        if number is None:
            raise ValueError(f"the tokenizer lacks {token}")
        return number

    def ids_of(self, text: str) -> list[int]:
        """Of any length, without begin and end."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def framed(self, ids: Sequence[int]) -> list[int]:
        """`length` tokens: begin, as many of these as fit, end, and filled up."""
        fitting = list(ids[: self.length - 2])
        return [self.begin, *fitting, self.end, *[self.pad] * (self.length - 2 - len(fitting))]

    def __call__(self, text: str) -> list[int]:
        """`length` tokens: what is too long is cut off."""
        return self.framed(self.ids_of(text))


def _settings(directory: Path) -> dict[str, Any]:
    """The newer file wins over the older one."""
    found: dict[str, Any] = {}
    for name in (SPECIALS, SETTINGS):
        if (directory / name).is_file():
            found |= json.loads((directory / name).read_text())
    return found


def _lines(merges: Path) -> list[str]:
    lines = merges.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#version")]


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _content(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _added_tokens(whole: Mapping[str, Any], settings: Mapping[str, Any]) -> list[AddedToken]:
    """In the order of their numbers, which they then get again."""
    described = {token["id"]: token for token in whole.get("added_tokens", ())}
    described |= {int(number): token for number, token in settings.get("added_tokens_decoder", {}).items()}
    wanted = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return [
        AddedToken(token["content"], **{name: token[name] for name in wanted if name in token})
        for _, token in sorted(described.items())
    ]
