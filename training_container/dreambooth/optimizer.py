"""AdamW over the trainable weights, and one guarded update: a step with a non-finite gradient changes nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

import torch

from contracts.training import Hyperparameters
from training_container.dreambooth.precision import Precision

CLIP_EPSILON = 1e-6  # as clip_grad_norm_ has it


def build_optimizer(
    parameters: Iterable[torch.nn.Parameter], settings: Hyperparameters, precision: Precision
) -> torch.optim.Optimizer:
    """use_8bit_adam is a wish: it needs bitsandbytes and a GPU."""
    betas = (settings.adam_beta1, settings.adam_beta2)
    if settings.use_8bit_adam and precision.device.type == "cuda" and importlib.util.find_spec("bitsandbytes"):
        import bitsandbytes  # type: ignore[import-not-found]  # optional

        eight_bit_adam: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
            list(parameters),
            lr=settings.effective_learning_rate,
            betas=betas,
            eps=settings.adam_epsilon,
            weight_decay=settings.adam_weight_decay,
        )
        return eight_bit_adam
    return torch.optim.AdamW(
        list(parameters),
        lr=settings.effective_learning_rate,
        betas=betas,
        eps=settings.adam_epsilon,
        weight_decay=settings.adam_weight_decay,
        fused=True,
    )


def build_scaler(precision: Precision) -> torch.amp.GradScaler:
    """Loss scaling for fp16; does nothing in the other formats."""
    return torch.amp.GradScaler(precision.device.type, enabled=precision.mixed == "fp16")


def apply_update(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    parameters: list[torch.nn.Parameter],
    *,
    learning_rate: float,
    max_grad_norm: float,
) -> None:
    """Unscale, clip by the global norm, step, clear. A step with a non-finite gradient changes no weight.

    The fused AdamW learns both on the device: no host sync, and no pass over the gradients only to clip them.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    scaler.unscale_(optimizer)
    if scaler.is_enabled():
        torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
    elif getattr(optimizer, "_step_supports_amp_scaling", False):
        norm = torch.nn.utils.get_total_norm(_gradients(parameters))
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        optimizer.grad_scale = ((norm + CLIP_EPSILON) / max_grad_norm).clamp(min=1.0)  # type: ignore[attr-defined]
        optimizer.step()
    elif bool(torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm).isfinite()):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _gradients(parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
