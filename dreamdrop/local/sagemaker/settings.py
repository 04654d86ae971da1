"""Times and sizes of the engine; the defaults are SageMaker's where it has one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    device_slots: int = 1
    """Training jobs that run at once; the others wait with SecondaryStatus Pending."""
    training_stop_grace_seconds: float = 120
    """From SIGTERM to SIGKILL when a job is stopped or reaches its time limit."""
    serving_stop_grace_seconds: float = 30
    shutdown_grace_seconds: float = 2
    startup_seconds: float = 480
    """How long /ping may take to answer 200."""
    restart_limit: int = 5
    """Crashes of a serving process in a row, without an answer between, after which the endpoint fails."""
    restart_backoff_seconds: float = 0.5
    """Doubled with each crash in a row, up to 10 seconds."""
    checkpoint_interval_seconds: float = 1
    idle_seconds: float | None = None
    """An idle endpoint whose scalable target has MinCapacity 0 is scaled to zero after this time; None: never."""
    wake_after_seconds: float = 120
    """A backlog without capacity wakes an endpoint with a step scaling policy after this time: two alarm periods."""
