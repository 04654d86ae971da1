"""Which typed error a failed training is reported as."""

from __future__ import annotations

import errno

from contracts.errors import DreamdropError, OutOfDisk, OutOfMemory, TrainingCrashed
from diffusion.exhaustion import is_out_of_memory

MAX_CAUSE_CHARACTERS = 600  # leaves room for the cure within SageMaker's 1024


def is_out_of_disk(error: BaseException) -> bool:
    """Python says it by number, safetensors in words."""
    return (
        getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "no space left on device" in str(error).lower()
    )


def as_training_failure(error: Exception) -> DreamdropError:
    """Typed errors stay as they are; the rest is OutOfDisk, OutOfMemory or TrainingCrashed."""
    if isinstance(error, DreamdropError):
        return error
    if is_out_of_disk(error):
        return OutOfDisk("The instance's disk is full.")
    if is_out_of_memory(error):
        return OutOfMemory("The training needs more memory than the instance has.")
    return TrainingCrashed(f"{type(error).__name__}: {error}"[:MAX_CAUSE_CHARACTERS])
