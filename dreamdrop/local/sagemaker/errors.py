"""How the engine says no, and how it fails."""

from __future__ import annotations


class SageMakerError(Exception):
    """The answer of an operation that was refused: AWS's error code, message and HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


class ClientFailure(Exception):
    """A job or an endpoint cannot go on because of its data, its permissions or its image (AWS: ClientError)."""


class StartFailure(Exception):
    """A serving process did not become ready."""


class EngineStopped(Exception):
    """The engine is shutting down; whoever works for it ends without recording a result."""


def invalid(message: str) -> SageMakerError:
    return SageMakerError("ValidationException", message)


def not_found(kind: str, name: str) -> SageMakerError:
    return invalid(f'Could not find {kind} "{name}".')
