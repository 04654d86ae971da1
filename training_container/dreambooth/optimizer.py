"""AdamW over the trainable weights, and one guarded update: a step with a non-finite gradient changes nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from contracts.training import Hyperparameters
from training_container.dreambooth.precision import Precision

CLIP_EPSILON = 1e-6  # as clip_grad_norm_ has it


class Optimizer(Protocol):
    """What the training needs of one of torch's; keys and shapes of its state are torch's."""

    param_groups: list[dict[str, Any]]

    def step(self) -> object: ...

    def zero_grad(self, set_to_none: bool = True) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class AdamW:
    """Loshchilov and Hutter 2017, arXiv 1711.05101, by torch's fused kernel.

    torch.optim has the same; its first use imports torch._dynamo, which takes a second.
    """

    grad_scale: Tensor | None = None  # gradients are divided by it
    found_inf: Tensor | None = None  # where it is 1, the step changes nothing
    _step_supports_amp_scaling = True  # so that torch's GradScaler sets the two

    def __init__(
        self, parameters: list[torch.nn.Parameter], *, lr: float, betas: tuple[float, float], **settings: float
    ) -> None:
        """settings: eps and weight_decay."""
        self.param_groups: list[dict[str, Any]] = [{"params": parameters, "lr": lr}]
        self._constants = {"beta1": betas[0], "beta2": betas[1], **settings}
        self._state: dict[torch.nn.Parameter, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moved:
                continue
            states = [self._state_of(parameter) for parameter in moved]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                moved,
                [parameter.grad for parameter in moved],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                steps,
                lr=group["lr"],
                amsgrad=False,
                maximize=False,
                grad_scale=self.grad_scale,
                found_inf=self.found_inf,
                **self._constants,
            )
            if self.found_inf is not None:
                torch._foreach_sub_(steps, [self.found_inf] * len(steps))

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        state = {place: self._state[one] for place, one in enumerate(self._parameters) if one in self._state}
        return {"state": state, "param_groups": []}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        parameters = self._parameters
        self._state = {
            parameters[place]: {name: tensor.to(parameters[place].device) for name, tensor in state.items()}
            for place, state in state_dict["state"].items()
        }

    @property
    def _parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _state_of(self, parameter: torch.nn.Parameter) -> dict[str, Tensor]:
        if parameter not in self._state:
            self._state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
        return self._state[parameter]


def build_optimizer(
    parameters: Iterable[torch.nn.Parameter], settings: Hyperparameters, precision: Precision
) -> Optimizer:
    """use_8bit_adam is a wish: it needs bitsandbytes and a GPU."""
    trained, rate = list(parameters), settings.effective_learning_rate
    betas = (settings.adam_beta1, settings.adam_beta2)
    constants = {"eps": settings.adam_epsilon, "weight_decay": settings.adam_weight_decay}
    if settings.use_8bit_adam and precision.device.type == "cuda" and importlib.util.find_spec("bitsandbytes"):
        import bitsandbytes  # type: ignore[import-not-found]  # optional

        eight_bit_adam: Optimizer = bitsandbytes.optim.AdamW8bit(trained, lr=rate, betas=betas, **constants)
        return eight_bit_adam
    return AdamW(trained, lr=rate, betas=betas, **constants)


def build_scaler(precision: Precision) -> torch.amp.GradScaler:
    """Loss scaling for fp16; does nothing in the other formats."""
    return torch.amp.GradScaler(precision.device.type, enabled=precision.mixed == "fp16")


def apply_update(
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    parameters: list[torch.nn.Parameter],
    *,
    learning_rate: float,
    max_grad_norm: float,
) -> Tensor:
    """Unscale, clip by the global norm, step, clear. A step with a non-finite gradient changes no weight.

    Returns, on the device, 1 where the step was skipped for that, else 0.

    The fused AdamW learns both on the device: no host sync, and no pass over the gradients only to clip them.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    scaled: Any = optimizer  # GradScaler's hints know torch's own optimizers only
    scaler.unscale_(scaled)
    if isinstance(optimizer, AdamW) and not scaler.is_enabled():
        norm = torch.nn.utils.get_total_norm(_gradients(parameters))
        optimizer.found_inf = (~norm.isfinite()).float()
        optimizer.grad_scale = ((norm + CLIP_EPSILON) / max_grad_norm).clamp(min=1.0)
        optimizer.step()
    else:
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        if scaler.is_enabled():
            scaler.step(scaled)
            scaler.update()
        elif bool(norm.isfinite()):  # 8-bit Adam itself waits for the GPU, at each parameter
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return (~norm.isfinite()).float()


def _gradients(parameters: list[torch.nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
