"""Where messages lie that could not be handled, and where each is to go again: an output of the service stack."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

DEAD_LETTERS_OUTPUT = "DeadLetters"  # JSON: what the messages are about -> DeadLetterQueue


class DeadLetterQueue(BaseModel):
    """Messages of a queue go back to that queue; events that a function was given, to the function."""

    model_config = ConfigDict(frozen=True)

    url: str
    source_url: str | None = None
    function_name: str | None = None

    @model_validator(mode="after")
    def _goes_to_one_place(self) -> Self:
        if (self.source_url is None) == (self.function_name is None):
            raise ValueError("either source_url or function_name is needed")
        return self
