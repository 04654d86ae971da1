"""How far a training job is."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

TrainingPhase = Literal["loading", "class_images", "encoding", "inverting", "training", "sampling", "saving", "done"]


class TrainingProgress(BaseModel):
    """progress.json in the checkpoint folder: the one way out of a training job without a network."""

    model_config = ConfigDict(frozen=True)

    phase: TrainingPhase
    step: int = Field(ge=0)
    total_steps: int = Field(ge=1)
    loss: float | None = Field(None, description="Mean of the last steps.")
    seconds_per_step: float | None = None
    eta_seconds: float | None = None
    updated_at: datetime
