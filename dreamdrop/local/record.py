"""<state>/cloud.json: which process is the local cloud of this state folder, and how far it is."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from dreamdrop.local.files import write_atomically

FILE = "cloud.json"


@dataclass(frozen=True)
class CloudRecord:
    pid: int
    port: int
    phase: Literal["starting", "ready"]

    @classmethod
    def read(cls, state: Path) -> Self | None:
        """None when no cloud has been started here, or it has ended in order."""
        try:
            return cls(**json.loads((state / FILE).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, state: Path) -> None:
        write_atomically(state / FILE, json.dumps(asdict(self)))

    @property
    def alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True


def remove(state: Path) -> None:
    (state / FILE).unlink(missing_ok=True)
