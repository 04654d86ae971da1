"""A run on its way, shown live on stderr: one line a stage with its seconds, a bar while training.

On a terminal the lines are redrawn in place; elsewhere each news is one plain line, written once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from contracts.pipeline import Receipt, Run, Stage, Subject
from contracts.progress import TrainingProgress

ENDS: frozenset[Stage] = frozenset({"ready", "failed"})
REFRESHES_PER_SECOND = 8
BAR_WIDTH = 30


class StageTime(NamedTuple):
    stage: Stage
    seconds: float
    running: bool


def stage_times(run: Run, now: datetime) -> list[StageTime]:
    """Every stage entered so far, in order; the last one runs until it is an end. A retry shows some stages again."""
    leaving = [entry.at for entry in run.stages[1:]]
    times = [
        StageTime(entry.stage, (left - entry.at).total_seconds(), running=False)
        for entry, left in zip(run.stages, leaving, strict=False)
    ]
    if run.stages:
        last = run.stages[-1]
        ended = last.stage in ENDS
        times.append(StageTime(last.stage, 0.0 if ended else max(0.0, (now - last.at).total_seconds()), not ended))
    return times


def describe_progress(progress: TrainingProgress) -> str:
    """step 12/60, loss 0.218, 20 s left"""
    parts = [f"step {progress.step}/{progress.total_steps}"]
    if progress.phase != "training":
        parts.insert(0, progress.phase.replace("_", " "))
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.eta_seconds:
        parts.append(f"{progress.eta_seconds:.0f} s left")
    return ", ".join(parts)


def describe_receipt(receipt: Receipt) -> str:
    """$0.21 for 540 s on ml.g5.xlarge; spot saved $0.43 (67 %)"""
    if all(job.price is None for job in receipt.jobs):
        return f"nothing is billed on this machine, where training took {receipt.training_seconds} s"
    types = ", ".join(dict.fromkeys(job.instance_type for job in receipt.jobs))
    parts = [f"${receipt.dollars:.2f} for {receipt.billable_seconds} s on {types}"]
    if len(receipt.jobs) > 1:
        parts[0] += f" in {len(receipt.jobs)} attempts"
    if receipt.saved_dollars:
        parts.append(f"spot saved ${receipt.saved_dollars:.2f} ({receipt.saved_percent:.0f} %)")
    return "; ".join(parts)


class RunDisplay:
    """`with RunDisplay(console) as display: client.wait_until_ready(name, display.show)`"""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._subject: Subject | None = None
        self._spinner = Spinner("dots")
        self._told: set[str] = set()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=REFRESHES_PER_SECOND,
                redirect_stdout=False,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, subject: Subject) -> None:
        if self._subject and self._subject.run and subject.run and self._subject.run.id != subject.run.id:
            self._told.clear()
            self._console.print(
                f"A newer drop of {subject.subject} has taken over; this is its run:",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        self._subject = subject
        if self._live is None and subject.run is not None:
            for line in plain_lines(subject.run, datetime.now(UTC)):
                if line not in self._told:
                    self._told.add(line)
                    self._console.print(line, markup=False, highlight=False)

    def _render(self) -> RenderableType:
        if self._subject is None or self._subject.run is None:
            self._spinner.update(text="waiting for the upload to settle")
            return self._spinner
        return _picture_of(self._subject.run, datetime.now(UTC), self._spinner)


def plain_lines(run: Run, now: datetime) -> list[str]:
    """Only lines that stay true: finished stages with their seconds, the training step reached, the end."""
    times = stage_times(run, now)
    lines = [
        f"{number}. {entry.stage}" + ("" if entry.stage in ENDS else f": {entry.seconds:.1f} s")
        for number, entry in enumerate(times, 1)
        if not entry.running
    ]
    if times and times[-1].running:
        lines.append(f"{len(times)}. {times[-1].stage} ...")
        if times[-1].stage == "training" and run.progress is not None:
            lines.append(f"   {describe_progress(run.progress)}")
    return lines


def _picture_of(run: Run, now: datetime, spinner: Spinner) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=1)
    table.add_column(min_width=10)
    table.add_column(justify="right", min_width=8)
    table.add_column()
    spinner.update(text="")
    for entry in stage_times(run, now):
        mark: RenderableType = spinner if entry.running else _mark(entry.stage)
        detail: RenderableType = Text("")
        if entry.running and entry.stage == "training" and run.progress is not None:
            detail = _bar(run.progress)
        seconds = "" if entry.stage in ENDS else f"{entry.seconds:.1f} s"
        table.add_row(mark, Text(entry.stage), Text(seconds, style="dim"), detail)
    if run.ignored:
        return Group(table, Text(f"  left out: {', '.join(run.ignored)}", style="yellow"))
    return table


def _mark(stage: Stage) -> Text:
    return Text("✗", style="red") if stage == "failed" else Text("✓", style="green")


def _bar(progress: TrainingProgress) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    row.add_row(
        ProgressBar(total=progress.total_steps, completed=progress.step, width=BAR_WIDTH),
        Text(describe_progress(progress)),
    )
    return row


@contextmanager
def timed(console: Console, what: str) -> Iterator[None]:
    """Says what is being done, and afterwards how many seconds it took."""
    began = time.monotonic()
    with console.status(what):  # silent where there is no terminal
        yield
    console.print(f"{what}: {time.monotonic() - began:.1f} s", markup=False, highlight=False, soft_wrap=True)
