"""The contract of the process: exit code, failure file, standard output, SIGTERM."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from contracts.errors import parse_error
from tests.containers.training_parts import artifact_of, build_job, finish, start_program, weight_digests
from training_container import launch as launch_module
from training_container.platform import Platform
from training_container.train import train


def test_the_program_trains_and_exits_with_zero(tmp_path: Path, tiny_base_model: Path, small_dataset: Path) -> None:
    job = build_job(tmp_path / "job", tiny_base_model, small_dataset, max_steps="60.0", learning_rate='"1e-3"')
    started = time.monotonic()
    program = start_program(job.base)
    out, err = finish(program)
    assert program.returncode == 0, err
    losses = re.findall(r"train_avg_loss=([0-9\.]+)", out)
    assert len(losses) >= 6 and all(0 < float(loss) < 10 for loss in losses)
    assert artifact_of(job).training.steps == 60
    assert not job.failure.exists()
    assert time.monotonic() - started < 40


def test_a_bad_photo_ends_in_a_failure_file_and_exit_code_one(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    job = build_job(tmp_path / "job", tiny_base_model, small_dataset)
    (job.dataset / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    program = start_program(job.base)
    _, err = finish(program)
    assert program.returncode == 1
    failure = parse_error(job.failure.read_text())
    assert failure is not None and failure.code == "unreadable_image"
    assert "broken.png" in failure.cause
    assert "Traceback" in err
    assert not job.model.exists() or not list(job.model.iterdir())


def test_sigterm_leaves_a_checkpoint_and_a_restart_finishes_the_same_run(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    steps = 300
    job = build_job(tmp_path / "job", tiny_base_model, small_dataset, max_steps=steps)
    program = start_program(job.base)
    assert program.stdout is not None
    assert "train_avg_loss" in program.stdout.readline()
    program.send_signal(signal.SIGTERM)
    finish(program)
    assert program.returncode == 1
    failure = parse_error(job.failure.read_text())
    assert failure is not None and failure.code == "training_stopped"
    (checkpoint,) = job.checkpoints.glob("checkpoint-*")
    assert 0 < json.loads((checkpoint / "state.json").read_text())["step"] < steps

    again = start_program(job.base)
    whole = build_job(tmp_path / "whole", tiny_base_model, small_dataset, max_steps=steps)

    train(whole)
    _, err = finish(again)
    assert again.returncode == 0, err
    assert "resuming at step" in err
    assert weight_digests(job.model) == weight_digests(whole.model)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit is set through /proc")
def test_a_job_without_enough_memory_says_so(tmp_path: Path, tiny_base_model: Path, small_dataset: Path) -> None:
    """Once the program has started, its address space may hardly grow: the first large picture does not fit."""
    job = build_job(tmp_path / "job", tiny_base_model, small_dataset, resolution=1024)
    program = start_program(job.base)
    assert program.stderr is not None
    while "memory tier" not in (line := program.stderr.readline()):
        assert line, "the program ended before it had planned its memory"
    pages = int(Path(f"/proc/{program.pid}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 64 * 2**20
    resource.prlimit(program.pid, resource.RLIMIT_AS, (limit, limit))
    finish(program)
    assert program.returncode == 1
    failure = parse_error(job.failure.read_text())
    assert failure is not None and failure.code == "out_of_memory"


def test_two_processes_are_one_run_with_the_batch_of_both(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    """Data parallelism over gloo: prior preservation, accumulation and a trained text encoder included."""
    options = {
        "method": "full", "max_steps": 5, "save_steps": 3, "gradient_accumulation_steps": 2, "train_text_encoder": True,
        "with_prior_preservation": True, "num_class_images": 4, "sample_batch_size": 2, "use_ema": True,
    }  # fmt: skip
    alone = build_job(tmp_path / "alone", tiny_base_model, small_dataset, batch_size=2, **options)
    train(alone)
    both = build_job(tmp_path / "both", tiny_base_model, small_dataset, batch_size=1, **options)
    program = start_program(both.base, TRAINING_PROCESSES="2")
    out, err = finish(program)
    assert program.returncode == 0, err
    assert not both.failure.exists()
    expected, found = artifact_of(alone).training, artifact_of(both).training
    assert found.first_loss == pytest.approx(expected.first_loss, rel=1e-5)
    assert found.last_loss == pytest.approx(expected.last_loss, rel=1e-5)
    assert found.held_out_after == pytest.approx(expected.held_out_after, rel=1e-5)
    assert len([line for line in out.splitlines() if "train_avg_loss" in line and line.startswith("step 5/5")]) == 1
    for mine in sorted(alone.model.rglob("*.safetensors")):
        theirs = load_file(both.model / mine.relative_to(alone.model))
        for name, tensor in load_file(mine).items():
            torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    assert class_pictures(both) == class_pictures(alone)


def class_pictures(job: Platform) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in job.checkpoints.glob("class_images-*/*.png")}


def test_the_failure_of_one_process_ends_all_and_is_told_once(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    job = build_job(tmp_path / "job", tiny_base_model, small_dataset)
    (job.dataset / "broken.png").write_bytes(b"broken")
    program = start_program(job.base, TRAINING_PROCESSES="2")
    finish(program)
    assert program.returncode == 1
    failure = parse_error(job.failure.read_text())
    assert failure is not None and failure.code == "unreadable_image"


def test_sigterm_reaches_every_process_and_leaves_a_checkpoint(
    tmp_path: Path, tiny_base_model: Path, small_dataset: Path
) -> None:
    job = build_job(tmp_path / "job", tiny_base_model, small_dataset, max_steps=2000)
    program = start_program(job.base, TRAINING_PROCESSES="2")
    assert program.stdout is not None
    assert "train_avg_loss" in program.stdout.readline()
    program.send_signal(signal.SIGTERM)
    finish(program)
    assert program.returncode == 1
    failure = parse_error(job.failure.read_text())
    assert failure is not None and failure.code == "training_stopped"
    assert len(list(job.checkpoints.glob("checkpoint-*"))) == 1


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "training_killed"),
        ("os.kill(os.getpid(), signal.SIGABRT)", "training_crashed"),
        ("os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)", "training_stopped"),
        ("open(sys.argv[1], 'x').write('out_of_disk: The disk is full.'); sys.exit(1)", "out_of_disk"),
    ],
)
def test_the_launcher_speaks_for_a_process_that_could_not(
    ends: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second process ends as given before it has a handler of its own."""
    platform = Platform(tmp_path)
    platform.failure.parent.mkdir(parents=True)
    program = f"import os, signal, sys, time\nif os.environ['RANK'] == '1': {ends}"
    real = subprocess.Popen

    def start(_command: list[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        return real([sys.executable, "-S", "-c", program, str(platform.failure)], env=env)

    monkeypatch.setattr(launch_module.subprocess, "Popen", start)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert launch_module.launch(2, platform) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    failure = parse_error(platform.failure.read_text())
    assert failure is not None and failure.code == code
