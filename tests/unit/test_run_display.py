"""How a run is told to who waits for it: its stages with their times, and the demo's measures."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from contracts.artifact import Artifact
from contracts.generation import Generation, GenerationRequest, GenerationTimings
from contracts.pipeline import Run, StageEntry, Subject
from contracts.progress import TrainingProgress
from dreamdrop import demo
from dreamdrop.progress import RunDisplay, stage_times

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def run_so_far(*stages: Any, **more: Any) -> Run:
    entries = [StageEntry(stage=stage, at=BEGIN + timedelta(seconds=10 * n)) for n, stage in enumerate(stages)]
    status = {"ready": "succeeded", "failed": "failed"}.get(stages[-1], "running")
    return Run.model_validate(
        {"id": "r", "dataset_id": "d", "status": status, "stage": stages[-1], "stages": entries, **more}
    )


def test_stage_times_end_with_the_running_stage_and_show_a_retry_twice() -> None:
    times = stage_times(run_so_far("taken", "training", "training"), BEGIN + timedelta(seconds=25))
    assert [(t.stage, t.seconds, t.running) for t in times] == [
        ("taken", 10, False),
        ("training", 10, False),
        ("training", 5, True),
    ]
    assert not stage_times(run_so_far("taken", "ready"), BEGIN + timedelta(days=1))[-1].running


def test_the_demo_measures_from_the_last_upload_and_from_the_last_attempt() -> None:
    finished = run_so_far("taken", "training", "training", "judging", "ready")
    request = GenerationRequest(subject="robot", prompt="a robot")
    generation = Generation(
        id="0" * 32,
        status="succeeded",
        subject="robot",
        version="v",
        request=request,
        created_at=BEGIN,
        timings=GenerationTimings(queued_ms=500, compute_ms=1500),
    )
    watch = demo.Watch(BEGIN + timedelta(seconds=5), BEGIN + timedelta(seconds=42), 3 * demo.MEBIBYTE)
    assert demo.measure(finished, generation, watch) == {
        "seconds from last upload to training": 15,
        "seconds from training's end to first picture": 12,
        "seconds of the request, queued": 0.5,
        "seconds of the request, compute": 1.5,
        "megabytes of the local cloud": 3,
    }


def test_the_demo_says_which_base_model_drew_and_how_large() -> None:
    artifact = Artifact.model_construct(base_model="toyworld", resolution=64)
    assert demo.describe_artist(artifact) == "Drawn by the base model toyworld, 64 pixels a side."


def shown(terminal: bool, *runs: Run) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120)
    with RunDisplay(console) as display:
        for one in runs:
            display.show(Subject(subject="robot", ready=False, status=one.status, updated_at=BEGIN, run=one))
    return file.getvalue()


def test_without_a_terminal_each_piece_of_news_is_one_plain_line() -> None:
    progress = TrainingProgress(
        phase="training", step=12, total_steps=60, loss=0.218, eta_seconds=20.4, updated_at=BEGIN
    )
    text = shown(
        False,
        run_so_far("taken"),
        run_so_far("taken", "training", progress=progress),
        run_so_far("taken", "training", "ready"),
    )
    assert text.splitlines() == [
        "1. taken ...",
        "1. taken: 10.0 s",
        "2. training ...",
        "   step 12/60, loss 0.218, 20 s left",
        "2. training: 10.0 s",
        "3. ready",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_another_run_that_takes_over_is_told_and_shown_from_its_beginning(terminal: bool) -> None:
    first = run_so_far("taken", "training")
    newer = run_so_far("taken").model_copy(update={"id": "newer"})
    before, told, after = shown(terminal, first, first, newer).partition("A newer drop of robot has taken over")
    assert told
    assert terminal or "2. training ..." in before
    assert terminal or "1. taken ..." in after


def test_on_a_terminal_training_has_a_bar_with_step_loss_and_time_left() -> None:
    progress = TrainingProgress(phase="training", step=12, total_steps=60, loss=0.218, eta_seconds=20, updated_at=BEGIN)
    text = shown(True, run_so_far("taken", "training", progress=progress, ignored=["notes.txt"]))
    assert "step 12/60, loss 0.218, 20 s left" in text
    assert "━" in text
    assert "left out: notes.txt" in text
