"""What the records say of a plan, at any time: nothing here draws, trains or needs a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from benchmarks.outcomes import (
    BASE_BARS,
    NO_BARS,
    Judged,
    Judgement,
    Measure,
    Sheet,
    Trained,
    base_measures,
    run_record,
    subject_measures,
    training_measures,
)
from benchmarks.plan import Plan, Run, Shot, drawn_name, judged_name, subject_shots
from benchmarks.records import Records, key_of
from contracts.generation import Sampling

BASE, BASE_BY_CODE = "base", "base-by-code"
UNTRAINED, BY_CODE = "untrained", "by-code"
LOAD = "load"


@dataclass(frozen=True)
class Results:
    measures: list[Measure]
    trained: list[Trained]
    units_done: int
    units: int  # batches of the base model's pictures, and runs

    @property
    def complete(self) -> bool:
        return self.units_done == self.units

    def as_record(self) -> dict[str, Any]:
        return {
            "complete": self.complete,
            "measures": [measure.as_record() for measure in self.measures],
            "runs": [run_record(one) for one in self.trained],
        }


def collect(records: Records, plan: Plan) -> Results:
    batches = plan.base_batches()
    base = [judged_of(records, BASE, shots, plan.sampling) for shots in batches]
    known_batches = [judged for judged in base if judged is not None]
    runs = plan.runs()
    trained = [one for run in runs if (one := trained_of(records, run, plan.sampling)) is not None]
    return Results(
        measures=[
            *_of_base(records, plan, batches, [one for judged in known_batches for one in judged]),
            *_of_subjects(records, plan, BY_CODE),
            *_of_subjects(records, plan, UNTRAINED),
            *_of_trainings(trained),
        ],
        trained=trained,
        units_done=len(known_batches) + sum(one.failure is None for one in trained),
        units=len(batches) + len(runs),
    )


def judged_of(records: Records, folder: str, shots: list[Shot], sampling: Sampling) -> list[Judged] | None:
    record = records.read(judged_name(folder, shots, sampling))
    if record is None:
        return None
    return list(zip(shots, (Judgement(**seen) for seen in record["judgements"]), strict=True))


def trained_of(records: Records, run: Run, sampling: Sampling) -> Trained | None:
    """None while the run is not done."""
    failure = records.read(failure_name(run))
    if failure is not None:
        return Trained(run, failure=failure["failure"])
    training = records.read(training_name(run))
    judged = judged_of(records, run.folder, subject_shots(run.subject, run.seed), sampling)
    if training is None or judged is None:
        return None
    return Trained(run, training["seconds"], judged)


def training_name(run: Run) -> str:
    return f"{run.folder}/training"


def failure_name(run: Run) -> str:
    return f"{run.folder}/failure"


def alone_name(sampling: Sampling) -> str:
    return f"{BASE}/alone-{key_of(asdict(sampling))}"


def frechet_name(plan: Plan) -> str:
    shots = [shot for batch in plan.base_batches() for shot in batch]
    return drawn_name(BASE, shots, plan.sampling).replace("/drawn-", "/frechet-")


def _of_base(records: Records, plan: Plan, batches: Sequence[list[Shot]], judged: list[Judged]) -> list[Measure]:
    sheet = Sheet(BASE, BASE_BARS)
    drawn = [record for shots in batches if (record := records.read(drawn_name(BASE, shots, plan.sampling)))]
    seconds = sum(record["seconds"] for record in drawn)
    pictures = sum(record["pictures"] for record in drawn)
    alone, load = records.read(alone_name(plan.sampling)), records.read(LOAD)
    frechet = records.read(frechet_name(plan)) or {"generated": None, "by_code": None, "pictures": 0}
    sheet.value("fid", frechet["generated"], frechet["pictures"])
    if pictures:
        sheet.value("seconds_a_picture_in_batches", seconds / pictures, pictures)
    if alone:
        sheet.value("seconds_a_picture_alone", fmean(alone["seconds"]), len(alone["seconds"]))
    if load:
        sheet.value("load_seconds", load["seconds"])
    by_code = Sheet(BASE_BY_CODE, NO_BARS)
    by_code.value("fid", frechet["by_code"], frechet["pictures"])
    code_judged = [one for shots in batches for one in judged_of(records, BASE_BY_CODE, shots, plan.sampling) or ()]
    return [
        *base_measures(BASE, judged, BASE_BARS),
        *sheet.measures,
        *base_measures(BASE_BY_CODE, code_judged, NO_BARS),
        *by_code.measures,
    ]


def _of_subjects(records: Records, plan: Plan, group: str) -> list[Measure]:
    """What the scorers say of pictures that no training has touched: the lower and the upper end of the scale."""
    known = []
    for subject in plan.subjects:
        judged = judged_of(records, f"{group}/{subject}", subject_shots(subject, 0), plan.sampling)
        if judged is not None:
            known.append((subject, judged))
    return subject_measures(group, known, NO_BARS)


def _of_trainings(trained: Sequence[Trained]) -> list[Measure]:
    groups = dict.fromkeys(one.run.group for one in trained)
    return [
        measure
        for group in groups
        for measure in training_measures(group, [one for one in trained if one.run.group == group])
    ]
