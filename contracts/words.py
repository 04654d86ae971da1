"""The words of prompts."""

from __future__ import annotations

import re


def own_words(instance_prompt: str, class_prompt: str) -> list[str]:
    """The words that only the first has, without punctuation."""
    common = set(re.findall(r"\w+", class_prompt.lower()))
    return [word for word in re.findall(r"\w+", instance_prompt.lower()) if word not in common]
