"""The only file that knows SageMaker: where things lie, and how progress, a stop and a failure are told.

Layout and signals: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from contracts.errors import DreamdropError, InvalidRequest, TrainingStopped
from contracts.progress import TrainingPhase, TrainingProgress
from contracts.storage import PROGRESS

BASE_DIRECTORY_VARIABLE = "SAGEMAKER_BASE_DIR"
DEFAULT_BASE_DIRECTORY = "/opt/ml"
MAX_FAILURE_CHARACTERS = 1024  # what SageMaker keeps of output/failure as FailureReason
SECONDS_BETWEEN_PROGRESS_WRITES = 1.0


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


@dataclass
class Platform:
    """The directories of one job, its stop signal and its progress file."""

    base: Path
    stop_requested: bool = False
    reports: bool = True  # of the processes of one training, one does
    _last_phase: TrainingPhase | None = None
    _last_write: float = field(default=float("-inf"))

    @classmethod
    def from_environment(cls) -> Platform:
        return cls(Path(os.environ.get(BASE_DIRECTORY_VARIABLE) or DEFAULT_BASE_DIRECTORY))

    def channel(self, name: str) -> Path:
        """Absent when the job has no such channel."""
        return self.base / "input" / "data" / name

    @property
    def dataset(self) -> Path:
        return self.channel("training")

    @property
    def base_model(self) -> Path:
        return self.channel("model")

    @property
    def model(self) -> Path:
        return self.base / "model"

    @property
    def checkpoints(self) -> Path:
        return self.base / "checkpoints"

    @property
    def failure(self) -> Path:
        return self.base / "output" / "failure"

    def hyperparameters(self) -> dict[str, str]:
        """The job's flat map of text; empty when the job has none. Raises InvalidRequest."""
        path = self.base / "input" / "config" / "hyperparameters.json"
        if not path.exists():
            return {}
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InvalidRequest(f"hyperparameters.json is not JSON ({error}).") from error
        if not isinstance(values, dict):
            raise InvalidRequest("hyperparameters.json is not an object.")
        return {str(name): value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}

    def catch_stop_signal(self) -> None:
        """SIGTERM only sets a flag: the loop then has 120 seconds to write its checkpoint."""

        def remember(_signal: int, _frame: FrameType | None) -> None:
            self.stop_requested = True

        signal.signal(signal.SIGTERM, remember)

    def raise_if_stopped(self) -> None:
        """Raises TrainingStopped once SIGTERM has come."""
        if self.stop_requested:
            raise TrainingStopped("The training job was stopped before it was done.")

    def report_failure(self, error: DreamdropError) -> None:
        """The first failure is kept: what other processes say after it is only that one has gone."""
        self.failure.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), self.failure.open("x", encoding="utf-8") as file:
            file.write(str(error)[:MAX_FAILURE_CHARACTERS])

    def report_progress(
        self,
        phase: TrainingPhase,
        step: int,
        total_steps: int,
        *,
        loss: float | None = None,
        seconds_per_step: float | None = None,
    ) -> None:
        """Writes progress.json: at every change of phase, otherwise at most once a second."""
        if not self.reports:
            return
        now = time.monotonic()
        if phase == self._last_phase and now - self._last_write < SECONDS_BETWEEN_PROGRESS_WRITES:
            return
        progress = TrainingProgress(
            phase=phase,
            step=step,
            total_steps=total_steps,
            loss=loss,
            seconds_per_step=seconds_per_step,
            eta_seconds=None if seconds_per_step is None else seconds_per_step * (total_steps - step),
            updated_at=datetime.now(UTC),
        )
        write_atomically(self.checkpoints / PROGRESS, progress.model_dump_json())
        self._last_phase, self._last_write = phase, now
