"""The benchmark's arithmetic, its plan, and that it never does twice what its records hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import session as session_module
from benchmarks.gallery import Gallery, nearest, prototype_of
from benchmarks.grids import CELL, Row, compose, wrap
from benchmarks.jobs import TrainingFailed, lay_out_job
from benchmarks.outcomes import (
    BASE_BARS,
    Bar,
    Judged,
    Judgement,
    Measure,
    Trained,
    base_measures,
    recalls_by,
    subject_measures,
    training_measures,
)
from benchmarks.plan import (
    BATCH,
    CLASS_IMAGES,
    NEW_PLACES,
    Plan,
    Run,
    Shot,
    base_shots,
    held_out_combinations,
    showcase_shots,
    subject_shots,
)
from benchmarks.progress import Pace, told
from benchmarks.records import Records, key_of, model_key
from benchmarks.report import table
from benchmarks.results import Results, collect
from benchmarks.session import Session
from benchmarks.toyworld import document, parse, plan_of, recommended
from contracts.artifact import BaseModelManifest, FileEntry, checksum_of
from contracts.generation import GenerationDefaults, Sampling
from contracts.training import DatasetInfo, TrainingDefaults
from toyworld.subjects import PHOTOS, SUBJECTS
from toyworld.vocabulary import KINDS

PLAN = Plan(
    subjects=("robot", "jolly-ball"),
    methods=("lora", "full"),
    seeds=(4, 5),
    prompts=60,
    pictures_a_prompt=1,
    sampling=Sampling(25, 3.0, "dpmsolver++"),
    hyperparameters={"lora": {"max_steps": 9}, "full": {"num_class_images": 7}},
)
ROBOT = Run("robot", "lora", 0, prior=False, hyperparameters={"seed": 0})


def seen_as(shot: Shot, **differently: Any) -> Judged:
    """As asked for, but for what is named."""
    right = Judgement(shot.kind, shot.colour or "red", shot.place or "beach", clip_t=0.5)
    return shot, replace(right, **differently)


def value_of(measures: Sequence[Measure], name: str) -> float:
    (found,) = [measure.value for measure in measures if measure.name == name]
    return found


def robot_pictures(found: int, kept: int) -> list[Judged]:
    """Of the twelve pictures of the subject so many show it; of the six of its class so many do not."""
    judged = []
    counts = {"subject": found, "class": 6 - kept, "unrelated": 0}
    for shot in subject_shots("robot", 0):
        is_robot = counts[shot.role] > 0
        counts[shot.role] -= 1
        judged.append(seen_as(shot, toy="robot" if is_robot else "ordinary-1", dino=0.5, clip_i=0.5))
    return judged


def test_the_nearest_prototype_is_the_one_of_the_smallest_angle() -> None:
    gallery = Gallery(("east", "north"), np.array([[1, 0], [0, 1]], dtype=np.float32))
    assert nearest(gallery, np.array([[0.8, 0.6], [0.6, 0.8], [-1, 0]], dtype=np.float32)) == ["east", "north", "north"]


def test_a_prototype_is_the_direction_of_the_mean() -> None:
    assert prototype_of(np.array([[1, 0], [0, 1]], dtype=np.float32)).tolist() == pytest.approx([0.5**0.5, 0.5**0.5])


def test_a_bar_holds_at_its_own_value() -> None:
    assert Bar("at least", 0.8).holds(0.8) and not Bar("at least", 0.8).holds(0.79)
    assert Bar("at most", 90).holds(90) and not Bar("at most", 90).holds(90.1)
    assert Measure("base", "clip_t", 0.1, 1).holds is None


def test_base_accuracies_are_counted_each_on_its_own() -> None:
    shots = base_shots(4, 1)
    other = {"kind": next(kind for kind in KINDS if kind != shots[0].kind)}
    judged = [seen_as(shots[0], **other), *map(seen_as, shots[1:])]
    measures = base_measures("base", judged, BASE_BARS)
    assert value_of(measures, "class_accuracy") == 0.75
    assert value_of(measures, "colour_accuracy") == value_of(measures, "background_accuracy") == 1
    assert [measure.holds for measure in measures] == [False, True, True, None]


def test_the_class_is_kept_only_by_pictures_of_the_kind_that_are_not_the_subject() -> None:
    judged = robot_pictures(found=9, kept=4)
    last = max(index for index, (shot, _) in enumerate(judged) if shot.role == "class")
    judged[last] = (judged[last][0], replace(judged[last][1], kind="duck"))
    measures = subject_measures("lora", [("robot", judged)], {})
    assert value_of(measures, "subject_recall") == 9 / 12
    assert value_of(measures, "subject_recall_in_new_places") == 1
    assert value_of(measures, "class_kept") == 3 / 6
    assert value_of(measures, "unrelated_kept") == 1


def test_trainings_are_summed_up_with_their_failures() -> None:
    second = replace(ROBOT, seed=1)
    trained = [
        Trained(ROBOT, 40.0, robot_pictures(12, 6)),
        Trained(second, 100.0, robot_pictures(6, 6)),
        Trained(replace(ROBOT, seed=2), failure="out_of_memory"),
    ]
    measures = training_measures("lora", trained)
    assert value_of(measures, "training_seconds_max") == 100
    assert value_of(measures, "training_seconds_mean") == 70
    assert value_of(measures, "failed_trainings") == 1
    assert value_of(measures, "subject_recall") == 0.75
    assert value_of(measures, "worst_subject_recall") == 0.75
    assert value_of(measures, "recall_deviation_between_seeds") == 0.25
    assert {one.name: one.holds for one in measures if one.bar} == {
        "failed_trainings": False,
        "training_seconds_max": False,
        "subject_recall": False,
        "subject_background_accuracy": True,
    }
    assert recalls_by(trained[:2], lambda run: str(run.seed)) == {"0": 1.0, "1": 0.5}
    prior = training_measures("lora+prior", trained[:1])
    assert {one.name for one in prior if one.bar} == {
        "failed_trainings", "training_seconds_max", "class_kept", "unrelated_kept"
    }  # fmt: skip


def test_base_prompts_are_held_out_and_fewer_are_the_first_of_the_many() -> None:
    shots = base_shots(30, 2)
    assert {(shot.kind, shot.colour, shot.place) for shot in shots} <= set(held_out_combinations())
    assert shots[:10] == base_shots(10, 1)
    assert [shot.prompt for shot in shots[:30]] == [shot.prompt for shot in shots[30:]]
    assert len({shot.seed for shot in shots}) == 60
    orange = [shot.prompt for shot in base_shots(200, 1) if shot.colour == "orange"]
    assert orange and all(prompt.startswith("a photo of an orange ") for prompt in orange)
    assert [shot.kind for shot in showcase_shots()] == [kind for kind in KINDS for _ in range(4)]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_subject_is_drawn_in_new_places_beside_its_class_and_other_kinds(subject: str) -> None:
    shots = subject_shots(subject, seed=2)
    kind = SUBJECTS[subject].kind
    roles = [shot.role for shot in shots]
    assert (roles.count("subject"), roles.count("class"), roles.count("unrelated")) == (12, 6, 6)
    assert not set(NEW_PLACES) & {place for _, place, _ in PHOTOS}
    assert len({shot.seed for shot in shots}) == len(shots)
    assert not {shot.seed for shot in shots} & {shot.seed for shot in subject_shots(subject, seed=1)}
    for shot in shots:
        assert (shot.kind == kind) is (shot.role != "unrelated")
        assert ("sks" in shot.prompt) is (shot.role == "subject")
        assert "sks" not in shot.text and f" {shot.kind}" in shot.text


def test_runs_go_seed_by_seed_and_the_first_seed_also_with_the_prior() -> None:
    runs = PLAN.runs()
    assert [(run.group, run.seed) for run in runs[::2]] == [
        ("lora", 4), ("full", 4), ("lora+prior", 4), ("full+prior", 4), ("lora", 5), ("full", 5)
    ]  # fmt: skip
    assert [run.subject for run in runs[:2]] == ["robot", "jolly-ball"]
    asked = {run.group: dict(run.hyperparameters) for run in runs if run.seed == 4}
    assert asked["lora"] == {"method": "lora", "seed": 4, "with_prior_preservation": False, "max_steps": 9}
    assert asked["lora+prior"]["num_class_images"] == CLASS_IMAGES
    assert asked["full+prior"]["num_class_images"] == 7
    assert "num_class_images" not in asked["full"]
    assert len({run.folder for run in runs}) == len(runs)


def test_other_hyperparameters_are_another_run() -> None:
    assert replace(ROBOT, hyperparameters={"seed": 0, "max_steps": 3}).folder != ROBOT.folder
    assert replace(ROBOT, hyperparameters=dict(ROBOT.hyperparameters)).folder == ROBOT.folder


def test_the_job_asks_for_the_hyperparameters(tmp_path: Path) -> None:
    run = PLAN.runs()[0]
    lay_out_job(tmp_path / "job", run, tmp_path)
    dataset = tmp_path / "job" / "input" / "data" / "training"
    info = DatasetInfo.parse((dataset / "dataset_info.json").read_bytes())
    assert info.hyperparameters.model_dump(exclude_unset=True) == run.hyperparameters
    assert info.instance_prompt == "a photo of a sks robot" and info.class_prompt == "a photo of a robot"
    assert len([*dataset.glob("*.jpg"), *dataset.glob("*.png")]) == len(PHOTOS)
    assert (tmp_path / "job" / "input" / "data" / "model").resolve() == tmp_path.resolve()


def manifest_of(*paths: str) -> BaseModelManifest:
    files = [FileEntry(path=path, size=1, sha256=key_of(path).ljust(64, "0")) for path in paths]
    return BaseModelManifest(
        id="toy", files=files, checksum=checksum_of(files), resolution=64, source="a test", licence="none"
    )


def test_records_outlive_a_new_readme_but_not_new_weights() -> None:
    model = model_key(manifest_of("unet/weights", "model_index.json"))
    assert model_key(manifest_of("unet/weights", "model_index.json", "README.md")) == model
    assert model_key(manifest_of("unet/other-weights", "model_index.json")) != model


def test_pictures_come_back_as_they_were_and_only_when_they_are_whole(tmp_path: Path) -> None:
    records = Records(tmp_path)
    pictures = [Image.new("RGB", (8, 8), (number, 255 - number, 7)) for number in range(13)]
    records.write_pictures("a/b", pictures, {"seconds": 1.5})
    again = records.read_pictures("a/b")
    assert again is not None
    assert [picture.tobytes() for picture in again] == [picture.tobytes() for picture in pictures]
    record = records.read("a/b")
    assert record == {"seconds": 1.5, "pictures": 13}
    records.forget("a/b")
    assert records.read_pictures("a/b") is None


class FakeWork:
    """Stands in for everything slow, and counts what is asked of it."""

    load_seconds = 0.25

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.draws: list[str] = []  # by which model
        self.judged = 0  # batches
        self.trainings: list[Run] = []
        self.most_draws: int | None = None  # then the user interrupts
        self.failing: str | None = None
        monkeypatch.setattr(session_module, "Studio", lambda _: self)
        monkeypatch.setattr(session_module, "draw_by_code", lambda shots, *_: blank(shots))
        monkeypatch.setattr(session_module, "train", self._train)
        monkeypatch.setattr(Session, "_judge", self)

    @contextmanager
    def untrained(self) -> Iterator[str]:
        yield "base"

    @contextmanager
    def trained(self, method: str, weights: Path) -> Iterator[str]:
        assert weights.is_dir()
        yield method

    def judge(self, shots: Sequence[Shot], pictures: Sequence[Image.Image], subject: str | None) -> list[Judgement]:
        assert len(shots) == len(pictures)
        self.judged += 1
        return [seen_as(shot, toy=subject, dino=0.5, clip_i=0.5)[1] for shot in shots]

    def distances(self, reference: Sequence[object], others: Sequence[Sequence[object]]) -> list[float]:
        assert [len(other) for other in others] == [len(reference)] * 2
        return [2.0, 1.0]

    def draw(self, model: str, shots: Sequence[Shot], sampling: Sampling) -> list[Image.Image]:
        if len(self.draws) == self.most_draws:
            raise KeyboardInterrupt
        self.draws.append(model)
        return blank(shots)

    def _train(self, run: Run, base_model: Path, folder: Path) -> dict[str, object]:
        if run.subject == self.failing:
            raise TrainingFailed("some lines\nthe cause")
        self.trainings.append(run)
        (folder / "weights").mkdir(parents=True)
        return {"seconds": 30.0}


def blank(shots: Sequence[Shot]) -> list[Image.Image]:
    return [Image.new("RGB", (8, 8)) for _ in shots]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> FakeWork:
    return FakeWork(monkeypatch)


def test_an_interrupted_base_measurement_goes_on(tmp_path: Path, work: FakeWork) -> None:
    records = Records(tmp_path)
    batches = len(PLAN.base_batches())
    assert [len(batch) for batch in PLAN.base_batches()] == [BATCH, BATCH, 60 - 2 * BATCH]
    work.most_draws = 2
    with pytest.raises(KeyboardInterrupt):
        Session(tmp_path, records, PLAN).measure_base()
    assert collect(records, PLAN).units_done == 2
    work.most_draws = None
    Session(tmp_path, records, PLAN).measure_base()
    assert len(work.draws) == batches + 1 + session_module.DRAWN_ALONE
    measures = collect(records, PLAN).measures
    assert value_of([one for one in measures if one.group == "base"], "fid") == 2
    assert value_of([one for one in measures if one.group == "base-by-code"], "fid") == 1
    assert value_of(measures, "load_seconds") == 0.25
    before = (len(work.draws), work.judged)
    Session(tmp_path, records, PLAN).measure_base()
    assert (len(work.draws), work.judged) == before


def test_finished_runs_are_never_trained_again(
    tmp_path: Path, work: FakeWork, capsys: pytest.CaptureFixture[str]
) -> None:
    records = Records(tmp_path)
    untrained = len(PLAN.subjects)
    work.most_draws = untrained + 3
    with pytest.raises(KeyboardInterrupt):
        Session(tmp_path, records, PLAN).measure_trainings()
    assert collect(records, PLAN).units_done == 3 and len(work.trainings) == 4
    work.most_draws = None
    Session(tmp_path, records, PLAN).measure_trainings()
    runs = PLAN.runs()
    assert work.trainings == runs
    assert work.draws == ["base"] * untrained + [run.method for run in runs]
    results = collect(records, PLAN)
    assert results.units_done == len(runs) and not results.complete
    assert value_of([one for one in results.measures if one.group == "full+prior"], "subject_recall") == 1
    capsys.readouterr()
    Session(tmp_path, records, PLAN).measure_trainings()
    assert work.trainings == runs and capsys.readouterr().out == ""


def test_lost_weights_are_trained_again_only_when_there_are_no_pictures(tmp_path: Path, work: FakeWork) -> None:
    records = Records(tmp_path)
    plan = replace(PLAN, subjects=("robot",), methods=("lora",), seeds=(0,))
    Session(tmp_path, records, plan).measure_trainings()
    for run in plan.runs():
        (records.path(run.folder) / "weights").rmdir()
        for judged in records.path(run.folder).glob("judged-*"):
            judged.unlink()
    Session(tmp_path, records, plan).measure_trainings()
    assert len(work.trainings) == 2 and collect(records, plan).units_done == 2
    Session(tmp_path, records, replace(plan, sampling=Sampling(25, 5.0))).measure_trainings()
    assert len(work.trainings) == 4


def test_a_failed_training_is_told_and_tried_again(
    tmp_path: Path, work: FakeWork, capsys: pytest.CaptureFixture[str]
) -> None:
    records = Records(tmp_path)
    plan = replace(PLAN, methods=("lora",), seeds=(0,))
    work.failing = "robot"
    Session(tmp_path, records, plan).measure_trainings()
    told_first = capsys.readouterr().out.splitlines()[0]
    assert told_first == "run 1 of 4: lora robot seed 0 FAILED: the cause; time left unknown"
    results = collect(records, plan)
    assert value_of([one for one in results.measures if one.group == "lora"], "failed_trainings") == 1
    assert "the cause" in table(results) and results.units_done == 2
    work.failing = None
    Session(tmp_path, records, plan).measure_trainings()
    assert [run.subject for run in work.trainings] == ["jolly-ball", "jolly-ball", "robot", "robot"]
    assert all(one.failure is None for one in collect(records, plan).trained)


def test_the_report_names_what_does_not_hold(tmp_path: Path) -> None:
    measures = [
        Measure("base", "class_accuracy", 0.5, 8, Bar("at least", 0.9)),
        Measure("base", "load_seconds", 0.5, 1, Bar("at most", 2)),
    ]
    results = Results(measures, [], units_done=1, units=2)
    lines = table(results).splitlines()
    assert lines[1].split() == ["base", "class_accuracy", "0.500", "at", "least", "0.9", "NO", "8"]
    assert lines[-2:] == ["1 of 2 units done: not complete", "bars that do not hold: base class_accuracy"]
    record = document(manifest_of("unet/weights"), PLAN, results, Records(tmp_path))
    assert record["complete"] is False
    assert record["measures"][0] == {
        "group": "base", "name": "class_accuracy", "value": 0.5, "count": 8, "bar": "at least 0.9", "holds": False
    }  # fmt: skip
    assert "every bar holds" in table(replace(results, measures=measures[1:]))


def test_time_left_knows_that_sorts_differ() -> None:
    pace = Pace()
    assert told(pace.left(["lora"])) == "time left unknown"
    pace.note("lora", 60)
    pace.note("lora", 120)
    pace.note("full", 300)
    assert pace.left(["lora", "full", "full"]) == 690
    assert pace.left(["new"]) == 195
    assert told(3900) == "1 h 05 min left" and told(100) == "2 min left"


def test_options_win_over_what_the_base_model_recommends(tmp_path: Path) -> None:
    (tmp_path / "training_defaults.json").write_text('{"lora": {"max_steps": 5, "learning_rate": 0.01}}')
    manifest = manifest_of("unet/weights").model_copy(
        update={
            "training_defaults": TrainingDefaults.model_validate({"full": {"max_steps": 8}}),
            "generation_defaults": GenerationDefaults(guidance_scale=2.5, num_inference_steps=9),
        }
    )
    training, generation = recommended(tmp_path, manifest)
    options = parse(["--hyperparameters", '{"lora": {"max_steps": 3}}', "--subjects", "robot,jolly-ball"])
    plan = plan_of(options, training, generation)
    assert plan.hyperparameters == {"lora": {"max_steps": 3, "learning_rate": 0.01}, "full": {}}
    assert plan.sampling == Sampling(25, 2.5)
    assert plan.subjects == ("jolly-ball", "robot")
    assert plan_of(parse(["--guidance", "4"]), *recommended(tmp_path / "none", manifest)).sampling.guidance_scale == 4


@pytest.mark.parametrize(
    "wrong", [["--subjects", "nobody"], ["--methods", "lora,best"], ["--hyperparameters", '{"sd": 1}']]
)
def test_wrong_options_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(wrong)
    assert wrong[0] in capsys.readouterr().err


def test_a_grid_is_as_wide_as_its_longest_row_and_keeps_captions_within_their_cells() -> None:
    picture = Image.new("RGB", (64, 64), (200, 0, 0))
    grid = compose([Row("photos", [(picture, "one")] * 3), Row("", [(picture, "a purple flower under the stars")])])
    assert grid.width == 8 + 3 * (CELL + 8)
    assert grid.getpixel((8 + CELL // 2, 8 + 24 + CELL // 2)) == (200, 0, 0)
    assert wrap("a purple flower under the stars").count("\n") == 1
    assert wrap("a red ball") == "a red ball"
