"""The number formats that a file can be written in."""

from __future__ import annotations

import torch
from torch import Tensor

from contracts.errors import InvalidRequest
from dreamdrop.formats import Dtype

DTYPES: dict[Dtype, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def converted(name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Raises InvalidRequest for numbers that the format does not hold."""
    result = weight.detach().to("cpu", dtype).contiguous()
    if not torch.isfinite(result).all():
        raise InvalidRequest(f"{name} holds numbers beyond {dtype}.", "Export it with --dtype fp32.")
    return result
