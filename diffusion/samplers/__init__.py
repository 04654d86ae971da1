"""The samplers that a request can name, made from the base model's own noise schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from contracts.generation import Scheduler
from diffusion.samplers.course import Sampler, SamplerSettings
from diffusion.samplers.ddim import Ddim
from diffusion.samplers.dpmsolver import DpmSolver
from diffusion.samplers.euler import Euler, EulerAncestral
from diffusion.samplers.lms import Lms
from diffusion.samplers.pndm import Pndm
from diffusion.samplers.unipc import UniPc

__all__ = ["Sampler", "make_sampler"]

_CLASSES: dict[Scheduler, type[Sampler]] = {
    "ddim": Ddim,
    "pndm": Pndm,
    "lms": Lms,
    "dpmsolver++": DpmSolver,
    "euler": Euler,
    "euler_a": EulerAncestral,
    "unipc": UniPc,
}


def make_sampler(name: Scheduler, config: Mapping[str, Any], steps: int, device: torch.device | str = "cpu") -> Sampler:
    """A new one for each batch: they remember earlier steps. config: scheduler_config.json. Raises UnsupportedModel."""
    kind = _CLASSES[name]
    known = {setting: value for setting, value in config.items() if setting not in kind.ignores}
    return kind(SamplerSettings.from_config(known), steps, torch.device(device))
