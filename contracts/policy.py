"""What a deployment may refuse to draw: a setting, off by default."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from contracts.errors import PromptRejected
from contracts.generation import WEIGHED_PART


def check_prompts(prompts: Sequence[str], blocked_words: Sequence[str]) -> None:
    """Raises PromptRejected if one of them holds a blocked word or phrase; letter case and width do not matter.

    The error does not say which: that would be a guide around it.
    """
    readings = [reading for prompt in prompts for reading in _readings(prompt)] if blocked_words else []
    for phrase in blocked_words:
        pattern = _pattern(phrase)
        if any(pattern.search(reading) for reading in readings):
            raise PromptRejected("prompt: this deployment does not draw that.")


def _pattern(phrase: str) -> re.Pattern[str]:
    """Between letters nothing but the words themselves; between words whatever is no letter, as tokenizers read it."""
    words = re.findall(r"[^\W\d_]+", _plain(phrase)) or [_plain(phrase)]
    return re.compile(r"(?<![^\W\d_])" + r"[\W\d_]+".join(map(re.escape, words)) + r"(?![^\W\d_])")


def _readings(prompt: str) -> list[str]:
    """Weights part words and join them: (na:1)ked, (a:1)(bear:1)."""
    return [_plain(WEIGHED_PART.sub(replacement, prompt)) for replacement in (r"\1", r" \1 ")]


def _plain(text: str) -> str:
    """Without what cannot be seen."""
    seen = (letter for letter in unicodedata.normalize("NFKC", text) if unicodedata.category(letter) != "Cf")
    return "".join(seen).casefold()
