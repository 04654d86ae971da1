"""The gate between a trained model and the one that is served."""

from __future__ import annotations

import math
from collections.abc import Mapping

from contracts.artifact import MIN_CONTRAST, Artifact
from contracts.errors import ModelRejected, TrainingCrashed, TrainingDiverged

MAX_DRIFT = 2.0  # held-out loss after training / before: beyond this the model has unlearned to denoise


def judge(artifact: Artifact) -> None:
    """Raises TrainingDiverged or ModelRejected."""
    training = artifact.training
    losses = (training.first_loss, training.last_loss, training.held_out_before, training.held_out_after)
    if not all(map(math.isfinite, losses)):
        raise TrainingDiverged("The loss is not a number.")
    if training.held_out_after > MAX_DRIFT * training.held_out_before:
        raise ModelRejected(
            f"The model got worse: loss {training.held_out_after:.4f} on noise it never saw, "
            f"{training.held_out_before:.4f} before the training."
        )
    for sample in training.samples:
        if not sample.finite or sample.contrast < MIN_CONTRAST:
            raise ModelRejected(f"The sample picture {sample.path} is blank.")


def check_complete(artifact: Artifact, sizes: Mapping[str, int]) -> None:
    """`sizes`: path -> bytes of what really lies in the bucket. Raises TrainingCrashed."""
    wrong = sorted(file.path for file in artifact.files if sizes.get(file.path) != file.size)
    if wrong:
        raise TrainingCrashed(f"The trained model is incomplete: {', '.join(wrong[:5])} missing or of another size.")
