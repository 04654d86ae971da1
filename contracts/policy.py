"""What a deployment may refuse to draw: a setting, off by default."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from contracts.errors import PromptRejected


def check_prompts(prompts: Sequence[str], blocked_words: Sequence[str]) -> None:
    """Raises PromptRejected if one of them holds a blocked word or phrase; letter case and width do not matter.

    The error does not say which: that would be a guide around it.
    """
    for phrase in blocked_words:
        pattern = re.compile(r"(?<!\w)" + re.escape(_plain(phrase)) + r"(?!\w)")
        if any(pattern.search(_plain(prompt)) for prompt in prompts):
            raise PromptRejected("prompt: this deployment does not draw that.")


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
