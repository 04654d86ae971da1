"""The trainer's benchmark: its arithmetic, its plan, and the same training asked of both sides."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.machine import Device, beside_others, peak_resident
from benchmarks.outcomes import Bar
from benchmarks.reference import COMMIT, REPOSITORY, SCRIPTS, Inputs, ReferenceMissing, find_scripts, flags_of
from benchmarks.stopwatch import Stopwatch
from benchmarks.train import main
from benchmarks.train_plan import MEMORY, SPEED, START, WARM_UP, Case, cases_on, share_of_floor
from benchmarks.train_report import FLOOR, Row, record, rows_of, table
from benchmarks.train_runs import Timing, best_of, lay_out, program_of, timing_of
from contracts.training import DatasetInfo, Hyperparameters, JobHyperparameters

SETTINGS = Hyperparameters(
    method="lora", resolution=64, max_steps=7, learning_rate=1e-3, mixed_precision="no", lora_rank=4, seed=3
)
INPUTS = Inputs(Path("model"), Path("photos"), Path("class"), "a sks toy", "a toy", Path("out"))
BARS = {SPEED: Bar("at least", 1.5), START: Bar("at most", 0.6)}
CASE = Case("full", "sd21", SETTINGS, BARS)
FAST = Timing(4.0, 3.0, 500.0, 0.26, 0.25)
SLOW = Timing(2.0, 4.0, 1000.0, 0.5, 0.5)


def values_of(flags: list[str]) -> dict[str, str]:
    return {name: value for name, value in pairwise(flags) if name.startswith("--")}


def test_the_reference_is_asked_for_the_same_training() -> None:
    flags = flags_of(SETTINGS, INPUTS)
    values = values_of(flags)
    assert values["--rank"] == "4" and values["--learning_rate"] == "0.001" and values["--seed"] == "3"
    assert values["--max_train_steps"] == "7" and values["--resolution"] == "64"
    assert "--with_prior_preservation" not in flags and "--class_data_dir" not in flags
    asked = {"with_prior_preservation": True, "num_class_images": 9, "train_text_encoder": True, "method": "full"}
    flags = flags_of(SETTINGS.model_copy(update=asked), INPUTS)
    assert {"--with_prior_preservation", "--train_text_encoder"} <= set(flags)
    assert values_of(flags)["--num_class_images"] == "9"
    assert "--rank" not in flags


@pytest.mark.parametrize(
    "own_way",
    [
        {"max_steps": None},
        {"mixed_precision": "auto"},
        {"noise_offset": 0.2},
        {"lora_targets": "all"},
        {"use_ema": True},
    ],
)
def test_what_the_reference_cannot_do_is_not_compared(own_way: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="cannot"):
        flags_of(SETTINGS.model_copy(update=own_way), INPUTS)


def test_without_the_reference_it_says_where_to_get_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1
    told = capsys.readouterr().err
    assert REPOSITORY in told and COMMIT in told and all(path in told for path in SCRIPTS.values())
    with pytest.raises(ReferenceMissing, match=str(tmp_path)):
        find_scripts(tmp_path)


def test_both_scripts_are_found(tmp_path: Path) -> None:
    for path in SCRIPTS.values():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert find_scripts(tmp_path) == {method: tmp_path / path for method, path in SCRIPTS.items()}


def test_the_first_steps_are_not_counted() -> None:
    ends = [100.0 + 7 * number for number in range(WARM_UP)]
    for seconds in (1.0, 2.0, 9.0):
        ends.append(ends[-1] + seconds)
    timing = timing_of({"steps": ends, "processor": [end / 2 for end in ends], "peak_bytes": 3 * 2**20}, started=98.5)
    assert timing == Timing(0.5, 1.5, 3.0, 4.0, 1.0)


def test_of_several_runs_the_least_disturbed_counts() -> None:
    assert best_of([FAST, SLOW]) == FAST
    assert best_of([FAST, replace(SLOW, first_step_seconds=1.0)]) == replace(FAST, first_step_seconds=1.0)


def test_bars_are_on_the_ratio() -> None:
    rows = {row.measure: row for row in rows_of(CASE, {"ours": [FAST, SLOW], "reference": [SLOW]}, gpu="")}
    assert rows[SPEED].ratio == 2 and rows[SPEED].holds
    assert rows[START].ratio == 0.75 and rows[START].holds is False
    assert rows[MEMORY].ratio == 0.5 and rows[MEMORY].holds is None
    assert FLOOR not in rows
    recorded = record(CASE, {"ours": [FAST], "reference": [SLOW]}, list(rows.values()))
    assert recorded["ratios"][SPEED] == 2 and recorded["bars"][START]["holds"] is False
    assert json.loads(json.dumps(recorded))["ours"]["runs"][0]["peak_mib"] == 500


def test_the_table_names_the_bars_that_do_not_hold() -> None:
    missed = Row("full", SPEED, 1.0, 1.0, BARS[SPEED])
    assert table([missed]).endswith(f"bars that do not hold: full: {SPEED}")
    assert table([replace(missed, ours=1.5)]).endswith("every bar holds")


def test_the_floor_is_what_the_device_must_compute_or_move() -> None:
    assert share_of_floor(CASE, 320 / 20.8, "Tesla T4") == pytest.approx(1.0)  # 65 ms of memory traffic
    lora = replace(CASE, name="lora")
    assert share_of_floor(lora, 10.0, "NVIDIA A100-SXM4-40GB") == pytest.approx(1.609 / 312 * 10)
    assert share_of_floor(CASE, 1.0, "a GPU of tomorrow") is None
    assert share_of_floor(replace(CASE, model="sd21/4"), 1.0, "Tesla T4") is None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_case_can_be_asked_of_the_reference(device: Device) -> None:
    cases = cases_on(device)
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        assert SPEED in case.bars and flags_of(case.settings, INPUTS)


def test_both_sides_read_the_same_pictures(tmp_path: Path) -> None:
    case = Case("lora", "toyworld", SETTINGS, {})
    inputs = lay_out(tmp_path / "run", case, tmp_path, "cpu")
    dataset = tmp_path / "run" / "input" / "data" / "training"
    info = DatasetInfo.parse((dataset / "dataset_info.json").read_bytes())
    assert (info.instance_prompt, info.class_prompt) == (inputs.instance_prompt, inputs.class_prompt)
    ours = {path.name: path.read_bytes() for path in dataset.glob("*.png")}
    assert ours == {path.name: path.read_bytes() for path in inputs.photos.iterdir()}
    sizes = {Image.open(path).size for path in (*inputs.photos.iterdir(), *inputs.class_pictures.iterdir())}
    assert sizes == {(64, 64)}
    asked = json.loads((tmp_path / "run" / "input" / "config" / "hyperparameters.json").read_text())
    assert JobHyperparameters.from_sagemaker(asked).training == SETTINGS
    scripts = {"full": Path("full.py"), "lora": Path("lora.py")}
    assert program_of("reference", case, inputs, scripts)[:1] == ["lora.py"]
    assert program_of("ours", case, inputs, scripts) == ["training_container", "train"]


def test_the_stopwatch_ends_the_program_after_its_last_step() -> None:
    stopwatch = Stopwatch(3)
    stopwatch.step_done()
    stopwatch.step_done()
    with pytest.raises(SystemExit):
        stopwatch.step_done()
    found = stopwatch.read()
    assert found["steps"] == sorted(found["steps"]) and len(found["steps"]) == len(found["processor"]) == 3


def test_the_peak_is_the_high_water_mark() -> None:
    assert peak_resident("VmPeak:\t 9 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 5 kB\n") == 2 * 2**20


def test_the_other_device_s_figures_stay(tmp_path: Path) -> None:
    out = tmp_path / "train.json"
    assert beside_others(out, "cpu", {"cases": {}}) == {"cpu": {"cases": {}}}
    out.write_text(json.dumps({"cuda": 1, "cpu": 2}))
    assert beside_others(out, "cpu", {"cases": {}}) == {"cuda": 1, "cpu": {"cases": {}}}


def test_the_model_for_gpus_is_as_large_as_stable_diffusion_2_1(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from benchmarks import random_models

    sizes: list[float] = []

    def weigh(_out: Path, _tokenizer: object, *parts: object) -> Path:
        modules = [part for part in parts if isinstance(part, torch.nn.Module)]
        sizes.extend(round(sum(weight.numel() for weight in module.parameters()) / 1e6, 2) for module in modules)
        return _out

    monkeypatch.setattr(random_models, "write_pipeline", weigh)
    with torch.device("meta"):
        random_models.build_sd21(Path("out"), resolution=512)
    assert sizes == [340.39, 83.65, 865.91]
