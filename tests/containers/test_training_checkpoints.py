"""What a checkpoint holds of an optimizer, and that it comes back bit for bit."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from training_container import checkpoints
from training_container.checkpoints import restore_newest, save_checkpoint
from training_container.dreambooth.loop import Learner, RunState
from training_container.dreambooth.optimizer import AdamW, Optimizer, build_scaler
from training_container.dreambooth.precision import Precision

QUANTISED = "__bnb_optimizer_quant_state__"  # bitsandbytes 0.50, optim/optimizer.py


class EightBit:
    """bitsandbytes' Optimizer8bit as a checkpoint sees it: it wraps what it has quantised in a dict of its own."""

    def __init__(self, state: dict[int, dict[str, Any]]) -> None:
        self.state = state
        self.param_groups: list[dict[str, Any]] = [{"params": [0, 1]}]

    def state_dict(self) -> dict[str, Any]:
        wrapped = {
            index: {
                "step": entries["step"],
                QUANTISED: {name: value for name, value in entries.items() if name != "step"},
            }
            for index, entries in self.state.items()
        }
        return {"state": wrapped, "param_groups": self.param_groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert state_dict["param_groups"] == self.param_groups
        for index, entries in state_dict["state"].items():
            self.state[index] = {**entries.pop(QUANTISED), **entries}


def eight_bit_state() -> dict[int, dict[str, Any]]:
    """A large weight in 8 bits, whose tables are shared, and a small one in 32."""
    generator = torch.Generator().manual_seed(0)
    table = torch.rand(256, generator=generator)

    def codes() -> Tensor:
        return torch.randint(0, 256, (64, 80), dtype=torch.uint8, generator=generator)

    def small() -> Tensor:
        return torch.rand(8, generator=generator)

    large = {"state1": codes(), "state2": codes(), "absmax1": small(), "absmax2": small()}
    return {
        0: {"step": 7, **large, "qmap1": table, "qmap2": table},
        1: {"step": 7, "state1": small(), "state2": small()},
    }


def learner_with(optimizer: Optimizer) -> Learner:
    weights = {"unet.weight": torch.nn.Parameter(torch.ones(3))}
    parts = {field.name: None for field in dataclasses.fields(Learner)}
    own = {
        "model": SimpleNamespace(parameters=weights),
        "optimizer": optimizer,
        "scaler": build_scaler(Precision(torch.device("cpu"), "no")),
    }
    return Learner(**cast(Any, {**parts, **own}))


def test_the_state_of_an_eight_bit_optimizer_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved, fresh = EightBit(eight_bit_state()), EightBit({})
    save_checkpoint(tmp_path, "run", learner_with(saved), RunState(step=7))
    assert restore_newest(tmp_path, "run", learner_with(fresh))
    assert fresh.state.keys() == saved.state.keys()
    for index, entries in saved.state.items():
        assert fresh.state[index].keys() == entries.keys()
        for name, value in entries.items():
            found = fresh.state[index][name]
            if isinstance(value, Tensor):
                assert found.dtype == value.dtype and torch.equal(found, value), name
            else:
                assert found == value, name


def test_a_checkpoint_copies_the_optimizers_state_to_the_host_and_not_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clone(_tensor: Tensor) -> Tensor:
        raise AssertionError("a second state beside the first, on a GPU that is full")

    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = AdamW([weight], lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    weight.grad = torch.ones(3)
    optimizer.step()
    monkeypatch.setattr(Tensor, "clone", clone)
    save_checkpoint(tmp_path, "run", learner_with(optimizer), RunState(step=1))


@pytest.mark.parametrize(
    ("dies_in", "step"),
    [("the weights", 1), ("the optimizer", 1), ("the state", 1), ("its naming", 1), ("the removal of the older", 2)],
)
def test_a_process_that_is_killed_while_it_writes_leaves_a_whole_checkpoint(
    tmp_path: Path, dies_in: str, step: int
) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = AdamW([weight], lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    weight.grad = torch.ones(3)
    optimizer.step()
    learner = learner_with(optimizer)
    save_checkpoint(tmp_path, "run", learner, RunState(step=1))
    child = os.fork()
    if child == 0:
        with pytest.MonkeyPatch.context() as patch:
            _die_in(patch, dies_in)
            save_checkpoint(tmp_path, "run", learner, RunState(step=2))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    restored = restore_newest(tmp_path, "run", learner)
    assert restored is not None
    assert restored.step == step
    save_checkpoint(tmp_path, "run", learner, RunState(step=3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint-00000003"]


def _die_in(patch: pytest.MonkeyPatch, place: str) -> None:
    def die(*_arguments: object, **_named: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def half_of(wanted: str) -> Callable[[dict[str, Tensor], Path], None]:
        def write(tensors: dict[str, Tensor], path: Path) -> None:
            save_file(tensors, path)
            if path.name.startswith(wanted):
                path.write_bytes(path.read_bytes()[:-5])
                die()

        return write

    if place in ("the weights", "the optimizer"):
        patch.setattr(checkpoints, "save_file", half_of(place.removeprefix("the ")))
    elif place == "the state":
        patch.setattr(Path, "write_text", die)
    elif place == "its naming":
        patch.setattr(Path, "rename", die)
    else:
        rmtree = shutil.rmtree
        patch.setattr(shutil, "rmtree", lambda path, **named: rmtree(path, **named) if named else die())
