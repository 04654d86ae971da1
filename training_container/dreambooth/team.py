"""Data parallelism: a process for each GPU, each with its share of every batch, together the run that one would be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

RANK, SIZE = "RANK", "WORLD_SIZE"  # as torchrun names them

Item = TypeVar("Item")


@dataclass(frozen=True)
class Team:
    """The processes of one training. A process alone is a team of one, and waits for nobody."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, environment: Mapping[str, str] = os.environ) -> Team:
        """Blocks until every process that the launcher started has joined."""
        team = cls(int(environment.get(RANK, "0")), int(environment.get(SIZE, "1")))
        if team.size > 1:
            if torch.cuda.is_available():
                torch.cuda.set_device(team.rank)
            distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        return team

    def leave(self) -> None:
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def share_of(self, items: list[Item]) -> list[Item]:
        """Mine of a list that every process has."""
        count = len(items) // self.size
        return items[self.rank * count : (self.rank + 1) * count]

    def parallel(self, module: torch.nn.Module) -> torch.nn.Module:
        """Gradients of its parameters become the team's mean during the backward pass."""
        if self.size == 1:
            return module
        return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)

    def mean(self, value: Tensor) -> Tensor:
        if self.size > 1:
            distributed.all_reduce(value)
            value /= self.size
        return value

    def any(self, flag: bool) -> bool:
        """True everywhere when it is true anywhere."""
        if self.size == 1:
            return flag
        flags = torch.tensor(int(flag))
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return bool(flags)

    def wait(self) -> None:
        if self.size > 1:
            self.any(False)


def without_sync(module: torch.nn.Module) -> AbstractContextManager[None]:
    """For passes whose gradients are only accumulated."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


ALONE = Team()
