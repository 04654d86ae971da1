"""docs/hyperparameters.md, from the contract: what a dataset_info.json may ask of a training."""

from __future__ import annotations

import json
from typing import Any

from contracts.training import ALIASES, FOREIGN_KEY_PREFIXES, SUBJECT_KEYS, Hyperparameters
from tests.synthesized import PROJECT

PAGE = "docs/hyperparameters.md"
HEAD = """\
# Hyperparameters

What `"hyperparameters"` in a `dataset_info.json` may hold. Each may be left out: then the base model's own default
counts, if it brings one, else the one below. Numbers and booleans may come as text, as SageMaker hands them over.

What is about the subject may stand here too: {subject_keys}.
The SageMaker SDK's own keys, {foreign}, are passed over.

This page is written by `make hyperparameters`.

| name | also called | default | may be | |
|---|---|---|---|---|
"""


def render() -> str:
    rows = [_row(name, field) for name, field in Hyperparameters.model_json_schema()["properties"].items()]
    foreign = ", ".join(f"`{prefix}…`" for prefix in FOREIGN_KEY_PREFIXES)
    subject_keys = ", ".join(f"`{key}`" for key in SUBJECT_KEYS)
    return HEAD.format(foreign=foreign, subject_keys=subject_keys) + "\n".join(rows) + "\n"


def _row(name: str, field: dict[str, Any]) -> str:
    others = ", ".join(f"`{other}`" for other, ours in ALIASES.items() if ours == name)
    default = "" if field["default"] is None else f"`{json.dumps(field['default']).strip(chr(34))}`"
    what: str = field.get("description", "")
    return f"| `{name}` | {others} | {default} | {_allowed(field)} | {what} |"


def _allowed(field: dict[str, Any]) -> str:
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    (kind,) = kinds
    kind = {**field, **kind}
    if "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind["enum"])
    if kind["type"] == "boolean":
        return "`true`, `false`"
    limits = (
        ("from", "minimum"), ("above", "exclusiveMinimum"), ("to", "maximum"), ("below", "exclusiveMaximum"),
        ("in steps of", "multipleOf"),
    )  # fmt: skip
    words = [f"{word} {kind[limit]:,}" for word, limit in limits if limit in kind]
    return " ".join(["whole," if kind["type"] == "integer" else "number,", *words]).rstrip(",")


if __name__ == "__main__":
    (PROJECT / PAGE).write_text(render(), encoding="utf-8")
