"""Does the work of a plan that no record shows as done yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from statistics import fmean

from PIL import Image

from benchmarks.gallery import draw_by_code
from benchmarks.jobs import TrainingFailed, train
from benchmarks.judging import Judge
from benchmarks.outcomes import Trained, is_subject, of_role
from benchmarks.plan import Plan, Run, Shot, drawn_name, judged_name, subject_shots
from benchmarks.progress import Pace, say, told
from benchmarks.records import Records
from benchmarks.results import (
    BASE,
    BASE_BY_CODE,
    BY_CODE,
    LOAD,
    UNTRAINED,
    alone_name,
    failure_name,
    frechet_name,
    trained_of,
    training_name,
)
from benchmarks.studio import Studio
from inference_container.networks import Networks
from toyworld.pretraining.export import SCORERS
from toyworld.scorers import Scorers

DRAWN_ALONE = 5

Open = Callable[[], AbstractContextManager[Networks]]


class Session:
    def __init__(self, base_model: Path, records: Records, plan: Plan) -> None:
        self._base_model = base_model
        self._records = records
        self._plan = plan

    @cached_property
    def _studio(self) -> Studio:
        studio = Studio(self._base_model)
        if self._records.read(LOAD) is None:
            self._records.write(LOAD, {"seconds": studio.load_seconds})
        return studio

    @cached_property
    def _judge(self) -> Judge:
        return Judge(Scorers.load(self._base_model / SCORERS), self._records)

    def measure_base(self) -> None:
        batches = self._plan.base_batches()
        pace = Pace()
        for number, shots in enumerate(batches, 1):
            started = time.monotonic()
            if self._finish(BASE, shots, None, lambda: self._studio.untrained()):
                pace.note(BASE, time.monotonic() - started)
                say(f"base: batch {number} of {len(batches)}, {told(pace.left([BASE] * (len(batches) - number)))}")
            self._finish_by_code(BASE_BY_CODE, shots, None)
        self._time_alone()
        self._measure_frechet(batches)

    def measure_trainings(self) -> None:
        """Raises nothing for a training that fails: it is recorded, told, and tried again next time."""
        for subject in self._plan.subjects:
            shots = subject_shots(subject, 0)
            self._finish_by_code(f"{BY_CODE}/{subject}", shots, subject)
            self._finish(f"{UNTRAINED}/{subject}", shots, subject, lambda: self._studio.untrained())
        runs = self._plan.runs()
        pace = Pace()
        for number, run in enumerate(runs, 1):
            self._records.forget(failure_name(run))
            known = trained_of(self._records, run, self._plan.sampling)
            started = time.monotonic()
            trained = known or self._finish_run(run)
            if trained.failure is None:
                pace.note(run.group, trained.seconds if known else time.monotonic() - started)
            if not known:
                left = told(pace.left([later.group for later in runs[number:]]))
                say(f"run {number} of {len(runs)}: {_account_of(trained)}; {left}")

    def pictures(self, folder: str, shots: list[Shot], open_networks: Open) -> list[Image.Image]:
        """From the record, or drawn now."""
        name = drawn_name(folder, shots, self._plan.sampling)
        known = self._records.read_pictures(name)
        if known is not None:
            return known
        with open_networks() as networks:
            started = time.monotonic()
            pictures = self._studio.draw(networks, shots, self._plan.sampling)
            seconds = time.monotonic() - started
        prompts = [shot.prompt for shot in shots]
        self._records.write_pictures(name, pictures, {"seconds": round(seconds, 3), "prompts": prompts})
        return pictures

    def showcase(self, shots: list[Shot]) -> list[Image.Image]:
        return self.pictures(f"{BASE}-showcase", shots, lambda: self._studio.untrained())

    def _finish(self, folder: str, shots: list[Shot], subject: str | None, open_networks: Open) -> bool:
        """Draws and judges. False if that was done before."""
        name = judged_name(folder, shots, self._plan.sampling)
        if self._records.read(name) is not None:
            return False
        self._write_judged(name, shots, subject, self.pictures(folder, shots, open_networks))
        return True

    def _finish_by_code(self, folder: str, shots: list[Shot], subject: str | None) -> None:
        name = judged_name(folder, shots, self._plan.sampling)
        if self._records.read(name) is None:
            self._write_judged(name, shots, subject, draw_by_code(shots, subject))

    def _write_judged(self, name: str, shots: list[Shot], subject: str | None, pictures: list[Image.Image]) -> None:
        judgements = self._judge.judge(shots, pictures, subject)
        self._records.write(name, {"judgements": [asdict(judgement) for judgement in judgements]})

    def _finish_run(self, run: Run) -> Trained:
        shots = subject_shots(run.subject, run.seed)
        weights = self._records.path(run.folder) / "weights"
        drawn = self._records.read(drawn_name(run.folder, shots, self._plan.sampling))
        try:
            if self._records.read(training_name(run)) is None or not (drawn or weights.is_dir()):
                self._records.forget(training_name(run))
                self._records.write(training_name(run), train(run, self._base_model, weights.parent))
        except TrainingFailed as failure:
            self._records.write(failure_name(run), {"failure": str(failure)})
        else:
            self._finish(run.folder, shots, run.subject, lambda: self._studio.trained(run.method, weights))
        trained = trained_of(self._records, run, self._plan.sampling)
        if trained is None:
            raise AssertionError(f"{run.folder} has been done and is not recorded")
        return trained

    def _time_alone(self) -> None:
        name = alone_name(self._plan.sampling)
        shots = self._plan.base_batches()[0][:1]
        if self._records.read(name) is not None:
            return
        seconds = []
        with self._studio.untrained() as networks:
            self._studio.draw(
                networks, shots, self._plan.sampling
            )  # the first is slower: memory is asked for, kernels are chosen
            for _ in range(DRAWN_ALONE):
                started = time.monotonic()
                self._studio.draw(networks, shots, self._plan.sampling)
                seconds.append(round(time.monotonic() - started, 3))
        self._records.write(name, {"seconds": seconds})

    def _measure_frechet(self, batches: Sequence[list[Shot]]) -> None:
        """Against pictures that code draws of the same prompts; the floor: the same for other such pictures."""
        name = frechet_name(self._plan)
        if self._records.read(name) is not None:
            return
        shots = [shot for batch in batches for shot in batch]
        generated = [one for batch in batches for one in self.pictures(BASE, batch, lambda: self._studio.untrained())]
        reference, again = draw_by_code(shots, None, "reference"), draw_by_code(shots, None, "again")
        distances = self._judge.distances(reference, [generated, again])
        self._records.write(name, {"generated": distances[0], "by_code": distances[1], "pictures": len(shots)})


def _account_of(trained: Trained) -> str:
    run = trained.run
    named = f"{run.group} {run.subject} seed {run.seed}"
    if trained.failure is not None:
        return f"{named} FAILED: {trained.failure.strip().splitlines()[-1]}"
    recall = fmean(map(is_subject(run.subject), of_role(trained.judged, "subject")))
    return f"{named} trained in {trained.seconds:.1f} s, recall {recall:.2f}"
