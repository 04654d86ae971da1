"""Losses of diffusers' DreamBooth scripts, recorded for tests/containers/test_training_parity.py.

`python -m benchmarks.parity --reference DIR` runs train_dreambooth.py and train_dreambooth_lora.py, of the repository
and commit that benchmarks/reference.py names, on the CPU in fp32 and compares with what is recorded; --write records.
Each case is a process of its own in which the script's own main() runs. Hooks are set around it, on the libraries'
classes: pictures are listed by name, LoRA starts where ours starts, the global generator is seeded once more when the
loop begins, and every loss is noted on its way to Accelerator.backward. Nothing else of the script is touched.

Pictures, noise and timesteps need no record: they follow from that seed. One thing about them depends on the machine:
on the CPU the VAE may answer in channels-last order, and torch then fills the noise in that order.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

from benchmarks.parity_cases import (
    CASES,
    CLASS_PICTURES,
    CLASS_PROMPT,
    DRAWS_SEED,
    INSTANCE_PROMPT,
    PHOTOS,
    write_pictures,
)
from benchmarks.progress import say
from benchmarks.reference import Inputs, ReferenceMissing, account_of, find_scripts, flags_of
from contracts.training import Method

RECORDED = Path("tests/containers/parity.json")
LIBRARIES = ("torch", "torchvision", "diffusers", "transformers", "peft", "accelerate")
DIGITS = 9  # what a float32 needs


class Recorded(TypedDict):
    channels_last: bool  # the order that the noise was drawn in
    losses: list[float]  # one a pass, undivided, in the order of training


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=__doc__)
    parser.add_argument("--reference", type=Path, metavar="DIR", help="a checkout with the example scripts")
    parser.add_argument("--write", action="store_true", help=f"record into {RECORDED}")
    options = parser.parse_args(arguments)
    try:
        scripts = find_scripts(options.reference)
    except ReferenceMissing as missing:
        sys.stderr.write(f"{missing}\n")
        return 1
    measured = measure(scripts)
    if options.write:
        document = {
            "reference": account_of(scripts),
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
            "cases": measured,
        }
        RECORDED.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        say(f"written: {RECORDED}")
        return 0
    known: dict[str, Recorded] = json.loads(RECORDED.read_text(encoding="utf-8"))["cases"]
    for name, found in measured.items():
        say(f"{name}: {worst_difference(found['losses'], known[name]['losses']):.1e} from what is recorded")
    return 0


def measure(scripts: Mapping[Method, Path]) -> dict[str, Recorded]:
    """A process for each case: the libraries keep state for a process's life."""
    spawn = multiprocessing.get_context("spawn")
    measured = {}
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn, max_tasks_per_child=1) as processes:
        for name, one in CASES.items():
            measured[name] = processes.submit(run_reference, scripts[one.settings.method], name).result()
            losses = measured[name]["losses"]
            say(f"{name}: {len(losses)} losses, {losses[0]:.4f} to {losses[-1]:.4f}")
    return measured


def run_reference(script: Path, name: str) -> Recorded:
    from benchmarks.random_models import build_tiny

    silence()
    one = CASES[name]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        inputs = Inputs(
            base_model=build_tiny(folder / "model", one.prediction_type),
            photos=write_pictures(folder / "photos", "photo", PHOTOS),
            class_pictures=write_pictures(folder / "class", "class", CLASS_PICTURES),
            instance_prompt=INSTANCE_PROMPT,
            class_prompt=CLASS_PROMPT,
            out=folder / "out",
        )
        module: Any = load(script)
        recorded = set_hooks(module, one.settings.seed)
        module.args = module.parse_args(flags_of(one.settings, inputs))
        module.main(module.args)
    return recorded


def silence() -> None:
    """This process writes hundreds of lines that nobody needs; what it raises reaches its parent all the same."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
        os.dup2(nowhere.fileno(), sys.stderr.fileno())


def load(script: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(script.stem, script)
    if specification is None or specification.loader is None:
        raise ImportError(f"{script} is no Python module")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def set_hooks(module: Any, seed: int) -> Recorded:
    """Returns what will be filled while the script runs."""
    import torch
    from accelerate import Accelerator
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from torch import Tensor

    from training_container.dreambooth.draws import generator_for

    recorded: Recorded = {"channels_last": False, "losses": []}

    def before(owner: Any, name: str, act: Callable[..., object]) -> None:
        original = getattr(owner, name)

        def replacement(self: object, *positional: Any, **named: Any) -> Any:
            act(*positional, **named)
            return original(self, *positional, **named)

        setattr(owner, name, replacement)

    def note_loss(loss: Tensor, **_: object) -> None:
        recorded["losses"].append(float(f"{loss.item():.{DIGITS}g}"))

    def note_order(_latents: Tensor, noise: Tensor, _timesteps: Tensor) -> None:
        recorded["channels_last"] = not noise.is_contiguous()

    def seed_adapters(*_: object, **__: object) -> None:
        torch.manual_seed(generator_for(seed, "lora").initial_seed())

    def seed_draws(*_: object, **__: object) -> None:
        torch.manual_seed(DRAWS_SEED)

    class SortedPath(type(Path())):  # type: ignore[misc]  # whichever class this system's paths have
        def iterdir(self) -> Iterator[Path]:
            return iter(sorted(super().iterdir()))

    before(Accelerator, "backward", note_loss)
    before(DDPMScheduler, "add_noise", note_order)
    before(UNet2DConditionModel, "add_adapter", seed_adapters)
    before(Accelerator, "init_trackers", seed_draws)
    module.Path = SortedPath
    return recorded


def worst_difference(losses: Sequence[float], others: Sequence[float]) -> float:
    """Relative."""
    return max(abs(one - other) / abs(other) for one, other in zip(losses, others, strict=True))


if __name__ == "__main__":
    sys.exit(main())
