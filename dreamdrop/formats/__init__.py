"""The files that other programs have: one-file checkpoints of Stable Diffusion and kohya's LoRA files.

`names`, `architecture` and `tokenizers` are light. The others need torch and diffusers, which take seconds to import:
they are imported where the work is done.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

from contracts.errors import InvalidRequest

Dtype = Literal["fp16", "bf16", "fp32"]  # of a file that is written

_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")


def need_libraries() -> None:
    """Raises InvalidRequest when what converts weights is not installed."""
    lacking = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if lacking:
        raise InvalidRequest(
            f"Converting weights needs {', '.join(lacking)}, not installed here.",
            "Install them, in Dreamdrop's checkout: pip install '.[containers]'",
        )
