"""How many steps a training has: which source decides, and whether its warm-up ends."""

from __future__ import annotations

from contracts.training import Hyperparameters


def overridden(earlier: Hyperparameters, later: Hyperparameters) -> Hyperparameters:
    """What the later and more specific source sets wins; its epochs also over a max_steps of the earlier one."""
    own, wanted = earlier.model_dump(exclude_unset=True), later.model_dump(exclude_unset=True)
    if "epochs" in wanted and later.max_steps is None:
        own.pop("max_steps", None)
    return Hyperparameters.model_validate(own | wanted)


def require_a_warmup_that_ends(wanted: Hyperparameters, total_steps: int) -> None:
    """Raises ValueError: with a longer one hardly anything would be learned, without a word."""
    if wanted.lr_scheduler != "constant" and wanted.lr_warmup_steps > total_steps:
        raise ValueError(
            f"lr_warmup_steps: {wanted.lr_warmup_steps} are more than the {total_steps} steps of the training "
            "(max_steps, or epochs x photos); the learning rate would never be reached"
        )
