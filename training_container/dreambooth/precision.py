"""Device and number formats: trainable weights are fp32, frozen ones and the arithmetic may be half precision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MixedPrecision = Literal["no", "fp16", "bf16"]
BF16_CAPABILITY = (8, 0)  # Ampere; a T4 is (7, 5)
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Gpu:
    memory: int  # bytes
    capability: tuple[int, int]


def visible_gpu() -> Gpu | None:
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Gpu(properties.total_memory, (properties.major, properties.minor))


def choose_mixed(asked: Literal["auto", "no", "fp16", "bf16"], gpu: Gpu | None) -> MixedPrecision:
    """auto: bf16 where the GPU computes in it, fp16 on other GPUs, no on the CPU."""
    if asked != "auto":
        return asked
    if gpu is None:
        return "no"
    return "bf16" if gpu.capability >= BF16_CAPABILITY else "fp16"


@dataclass(frozen=True)
class Precision:
    device: torch.device
    mixed: MixedPrecision

    @classmethod
    def choose(cls, asked: Literal["auto", "no", "fp16", "bf16"]) -> Precision:
        gpu = visible_gpu()
        return cls(torch.device("cuda" if gpu else "cpu"), choose_mixed(asked, gpu))

    @property
    def frozen_dtype(self) -> torch.dtype:
        return DTYPES[self.mixed]

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=self.frozen_dtype, enabled=self.mixed != "no")

    def place(self, module: torch.nn.Module) -> None:
        """Moves to the device; trainable parameters to fp32, frozen ones to the frozen format."""
        for parameter in module.parameters():
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else self.frozen_dtype)
        self.move(module)

    def move(self, module: torch.nn.Module) -> None:
        module.to(self.device)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """From the host to the device. A GPU copies by itself from pinned memory: the host does not wait for it."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def release(module: torch.nn.Module) -> None:
    """Off the device: it is not needed for a while."""
    module.to("cpu")
