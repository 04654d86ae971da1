"""Why the local cloud does not start, in words a person can act on."""

from __future__ import annotations


class LocalCloudError(Exception):
    """Names the cause and the cure on one line."""

    def __init__(self, cause: str, cure: str) -> None:
        super().__init__(f"{' '.join(cause.split())} {cure}")
        self.cause = cause
        self.cure = cure
