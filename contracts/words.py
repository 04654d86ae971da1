"""The words of prompts."""

from __future__ import annotations

import re

NOT_BLANK = r"\S"  # pattern of a prompt: something can be seen


def own_words(instance_prompt: str, class_prompt: str) -> list[str]:
    """The words that only the first has, without punctuation."""
    common = set(re.findall(r"\w+", class_prompt.lower()))
    return [word for word in re.findall(r"\w+", instance_prompt.lower()) if word not in common]
