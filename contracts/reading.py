"""JSON that people write: how it is read, and in plain words what is wrong with it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from contracts.storage import (
    CONTINUE_FROM_PATTERN,
    MAX_SUBJECT_LENGTH,
    SOURCE_PATTERN,
    SUBJECT_PATTERN,
    VERSION_PATTERN,
)
from contracts.words import NOT_BLANK

MAX_NAMED_PROBLEMS = 10

_WANTED = {
    "string_type": "must be text",
    "string_unicode": "must be text",
    "string_too_short": "must not be empty",
    "list_type": "must be a list",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
}
_PATTERNS = {
    NOT_BLANK: "must not be empty",
    SUBJECT_PATTERN: f"must be 1 to {MAX_SUBJECT_LENGTH} lower-case letters, digits and single hyphens",
    CONTINUE_FROM_PATTERN: "must be a subject, or subject@version",
    SOURCE_PATTERN: "must be a source_image that POST /v1/sources answered with",
    VERSION_PATTERN: "must be a version such as 0123456789ab-1",
}
# pydantic names the tried member of a union in the path: prompt.list[constrained-str]
_UNION_MEMBER = re.compile(r"^(constrained-\w+|list\[.*|str|int|float|bool|none)$")


def read_json(content: bytes | str) -> Any:
    """Raises ValueError, which says why it is none."""
    try:
        return json.loads(content if isinstance(content, str) else content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg.lower()}") from error
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8 text") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:  # of Python, which reads no longer ones
        raise ValueError("a number has too many digits") from error


def in_words(error: ValidationError, fields: Iterable[str]) -> str:
    """field.path: what is wrong (got value); ... Only the first few: callers decide how many there are.

    fields: those of which one may be meant by an unknown one.
    """
    known = list(fields)
    problems = [item for item in error.errors(include_url=False) if not _is_of_another_kind(item)]
    more = len(problems) - MAX_NAMED_PROBLEMS
    named = "; ".join(_problem(item, known) for item in problems[:MAX_NAMED_PROBLEMS])
    return named if more <= 0 else f"{named}; and {more} more"


def _is_of_another_kind(item: Any) -> bool:
    """Of a field that may be text or a list: what is wrong with it as the one that it is not."""
    is_member = bool(item["loc"]) and _UNION_MEMBER.match(str(item["loc"][-1]))
    return bool(is_member) and (
        item["type"] == "list_type" or (item["type"] == "string_type" and isinstance(item["input"], list))
    )


def _problem(item: Any, known: list[str]) -> str:
    parts = [str(part) for part in item["loc"]]
    fields = parts[:1] + [part for part in parts[1:] if not _UNION_MEMBER.match(part)]
    path = _short(".".join(fields) or "the document")
    if item["type"] == "extra_forbidden":
        return f"{path}: unknown field{_alike(fields[-1], known)}"
    if item["type"] == "missing":
        return f"{path}: missing"
    wrong = _wrong(item)
    if item["type"] == "value_error" and isinstance(item["input"], Mapping):  # of the whole, which is long
        return f"{path}: {wrong}" if fields else wrong
    return f"{path}: {wrong} (got {_short(repr(item['input']))})"


def _wrong(item: Any) -> str:
    if item["type"] == "string_pattern_mismatch" and item["ctx"]["pattern"] in _PATTERNS:
        return _PATTERNS[item["ctx"]["pattern"]]
    if item["type"] in _WANTED:
        return _WANTED[item["type"]]
    text = str(item["msg"]).removeprefix("Value error, ").replace(" after validation", "")
    return re.sub(r"^(Input|String|List) should ", "must ", text)


def _alike(name: str, known: list[str]) -> str:
    """Nothing for one that is known elsewhere."""
    close = difflib.get_close_matches(name[:60], known, n=1, cutoff=0.75)
    return f" (is {close[0]} meant?)" if close and close[0] != name else ""


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + "…"
