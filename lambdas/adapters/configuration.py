"""The function's environment, parsed once per process."""

from __future__ import annotations

import os
from functools import cache
from typing import TypeVar

from contracts.environment import StoreEnvironment

Environment = TypeVar("Environment", bound=StoreEnvironment)


@cache
def _parsed(model: type[StoreEnvironment]) -> StoreEnvironment:
    return model.from_variables(dict(os.environ))


def environment(model: type[Environment]) -> Environment:
    """Raises pydantic.ValidationError naming what is missing: a deployment defect."""
    parsed = _parsed(model)
    assert isinstance(parsed, model)  # noqa: S101 - tells the type checker what `_parsed` returns
    return parsed
