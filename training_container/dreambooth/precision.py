"""Device and number formats: trainable weights are fp32, frozen ones and the arithmetic may be half precision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch

MixedPrecision = Literal["no", "fp16", "bf16"]
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Precision:
    device: torch.device
    mixed: MixedPrecision

    @classmethod
    def choose(cls, asked: Literal["auto", "no", "fp16", "bf16"]) -> Precision:
        """auto: bf16 where the GPU has it, fp16 on other GPUs, no on the CPU."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if asked != "auto":
            return cls(device, asked)
        if device.type == "cpu":
            return cls(device, "no")
        return cls(device, "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16")

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


def release(module: torch.nn.Module) -> None:
    """Off the device: it is not needed for a while."""
    module.to("cpu")
