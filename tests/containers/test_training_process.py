"""The contract of the process: exit code, failure file, standard output, SIGTERM."""

from __future__ import annotations

import json
import re
import resource
import signal
import time
from pathlib import Path

import pytest

from contracts.errors import parse_error
from tests.containers.training_parts import artifact_of, build_job, finish, start_program, weight_digests
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
    assert "memory tier" in program.stderr.readline()
    pages = int(Path(f"/proc/{program.pid}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 64 * 2**20
    resource.prlimit(program.pid, resource.RLIMIT_AS, (limit, limit))
    finish(program)
    assert program.returncode == 1
    failure = parse_error(job.failure.read_text())
    assert failure is not None and failure.code == "out_of_memory"
