"""diffusers' schedulers under the names that a request has for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers

from contracts.generation import Scheduler

_CLASSES: dict[Scheduler, tuple[Any, dict[str, Any]]] = {
    "ddim": (diffusers.DDIMScheduler, {}),
    "pndm": (diffusers.PNDMScheduler, {}),
    "lms": (diffusers.LMSDiscreteScheduler, {}),
    "dpmsolver++": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler_a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
}


def their_scheduler(name: Scheduler, config: Mapping[str, Any]) -> Any:
    kind, overrides = _CLASSES[name]
    return kind.from_config(config, **overrides)
