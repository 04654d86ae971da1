"""The generator's benchmark: its arithmetic, its plan, its bucket, and what its peers load and when."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import boto3
import pytest
from botocore.exceptions import ClientError
from PIL import Image

from benchmarks.bucket import bucket_server, span_of
from benchmarks.generate_plan import (
    MOST_NOISE,
    PARITY_BAR,
    PARITY_CASE,
    PICTURE,
    SHARE,
    START,
    Asker,
    Case,
    Request,
    Side,
    cases_on,
    cold,
    cold_inside,
    picture_of,
    switch_inside,
    switch_to,
    waiting,
)
from benchmarks.generate_report import (
    Row,
    allowing_for_noise,
    figures_of,
    noise_of,
    parity_record,
    parity_table,
    record,
    rows_of,
    summary,
    table,
)
from benchmarks.generate_runs import Effort, Notes, greatest_difference, in_turns, time_subjects
from benchmarks.generate_sides import Drawn, OurServer, Peer, family_of, peak_mib_of, processor_seconds_of
from benchmarks.generate_subjects import BUCKET, VERSION, Subject, publish
from benchmarks.machine import Device, processor_seconds
from benchmarks.models import TOYWORLD
from benchmarks.outcomes import Bar
from contracts.artifact import LORA_WEIGHTS
from contracts.generation import Sampling, Scheduler
from inference_container.subjects import SubjectStore

SAMPLING = Sampling(num_inference_steps=10)
BARS = {PICTURE: Bar("at most", 1.0), SHARE: Bar("at most", 0.05), waiting(8): Bar("at least", 2.0)}
CASE = Case("toyworld", 64, SAMPLING, BARS)
SAMPLES: dict[str, dict[Side, list[float]]] = {
    START: {"ours": [4.0, 3.0], "pipeline": [6.0, 9.0]},
    PICTURE: {"ours": [1.0, 1.0, 1.0], "pipeline": [1.0, 1.02, 1.0]},
    waiting(8): {"ours": [3.0], "pipeline": [2.0]},
    switch_inside("lora"): {"ours": [0.02, 0.9, 0.01], "pipeline": [0.1], "classic": [2.0]},
}
SAME = {kind: dict.fromkeys(get_args(Scheduler), 0) for kind in ("base", "lora", "full")}


def rows() -> dict[str, Row]:
    return {row.measure: row for row in rows_of(CASE, SAMPLES)}


def test_bars_are_on_the_ratio_but_for_a_share_of_our_own_time() -> None:
    found = rows()
    assert found[waiting(8)].ratio == 1.5 and found[waiting(8)].holds is False
    assert found[SHARE].figures == {"ours": 0.02, "pipeline": 0.1} and found[SHARE].holds
    assert found[START].ratio == 0.5 and found[START].holds is None
    assert found[switch_inside("lora")].figures["classic"] == 2


def test_of_starts_the_least_disturbed_counts_and_of_all_else_the_middle() -> None:
    assert figures_of(START, {"ours": [5.0, 3.0, 4.0]}) == {"ours": 3.0}
    assert figures_of(PICTURE, {"ours": [5.0, 3.0, 9.0]}) == {"ours": 5.0}


def test_never_slower_is_told_as_exactly_as_the_machine_measures() -> None:
    assert noise_of(SAMPLES) == pytest.approx(0.02, abs=1e-3)
    assert noise_of({PICTURE: {"pipeline": [1.0]}}) == 0
    assert rows()[PICTURE].bar == Bar("at most", 1.02) and rows()[PICTURE].holds
    assert allowing_for_noise(BARS, 0.5)[PICTURE].value == 1 + MOST_NOISE
    assert allowing_for_noise(BARS, 0.5)[SHARE] == BARS[SHARE]


@pytest.mark.parametrize("figures", [{"ours": 1.0}, {"ours": 1.0, "pipeline": 0.0}, {"ours": -0.1, "pipeline": 0.1}])
def test_where_a_ratio_says_nothing_there_is_none(figures: dict[Side, float]) -> None:
    row = Row("toyworld", PICTURE, figures, BARS[PICTURE])
    assert row.ratio is None and row.holds is None


def test_the_table_and_its_summary_name_what_does_not_hold() -> None:
    found = list(rows().values())
    text = table(found)
    assert len(text.splitlines()) == 1 + len(found)
    assert "NO" in next(line for line in text.splitlines() if "8 waiting" in line)
    assert summary(found, SAME, PARITY_BAR) == f"bars that do not hold: toyworld: {waiting(8)}"
    worse = SAME | {"lora": SAME["lora"] | {"lms": 3}}
    holding = [replace(row, bar=None) for row in found]
    assert summary(holding, SAME, PARITY_BAR) == summary(holding, worse, None) == "every bar holds"
    assert summary(holding, worse, PARITY_BAR) == "bars that do not hold: parity of lora, lms"
    assert "lms" in parity_table(worse) and parity_table(worse) != parity_table(SAME)
    assert parity_record(PARITY_CASE, worse, PARITY_BAR)["holds"] is False
    assert "holds" not in parity_record(PARITY_CASE, worse, None)


def test_the_record_holds_every_sample() -> None:
    recorded = json.loads(json.dumps(record(CASE, SAMPLES, list(rows().values()))))
    assert recorded["samples"] == SAMPLES
    assert recorded["ratios"][START] == 0.5 and recorded["noise"] == 0.0196
    assert recorded["bars"][waiting(8)] == {"bar": ["at least", 2.0], "holds": False}
    assert recorded["sampling"]["scheduler"] == "dpmsolver++"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_no_request_is_asked_twice_and_none_is_too_long_for_a_plain_pipeline(device: Device) -> None:
    for case in cases_on(device):
        asker = Asker(case)
        requests = [asker.next() for _ in range(100)]
        assert len({request.prompt for request in requests}) == len({request.seed for request in requests}) == 100
        assert max(len(request.prompt) for request in requests) < 75  # a byte is a token of the random models
        assert START in case.bars and SHARE in case.bars


def test_our_server_is_asked_for_the_same() -> None:
    request = Asker(PARITY_CASE).next("robot", "lms")
    payload = request.to_payload()
    assert (payload.prompt, payload.seed, payload.subject, payload.version) == (request.prompt, 0, "robot", VERSION)
    assert (payload.width, payload.height, payload.num_inference_steps, payload.scheduler) == (64, 64, 10, "lms")
    assert Asker(PARITY_CASE).next().to_payload().version is None


def test_what_takes_many_pictures_is_done_less_often() -> None:
    assert (Effort(1, 1).rounds, Effort(15, 2).rounds) == (1, 3)
    assert in_turns(("ours", "pipeline"), 0) == ["ours", "pipeline"]
    assert in_turns(("ours", "pipeline"), 1) == ["pipeline", "ours"]


class Clockwork:
    """A side whose times are known: 1 s a picture, 2 s more for another subject, 5 s more for a new one."""

    ready_seconds = 0.0

    def __init__(self) -> None:
        self._known: list[str | None] = []

    def draw(self, requests: Sequence[Request]) -> Drawn:
        [request] = requests
        more = 5.0 if request.subject not in self._known else 0.0 if self._known[-1] == request.subject else 2.0
        self._known.append(request.subject)
        return Drawn(1.0 + more, [b""], [more])

    def processes(self) -> list[int]:
        return []


def test_a_switch_is_what_a_request_takes_more_than_usual() -> None:
    notes = Notes()
    time_subjects(notes, Asker(CASE), {"ours": Clockwork(), "classic": Clockwork()}, "lora", ["a", "b"], rounds=3)
    for side in ("ours", "classic"):
        assert notes.samples[picture_of("lora")][side] == [1.0] * 6
        assert notes.samples[cold("lora")][side] == notes.samples[cold_inside("lora")][side] == [5.0] * 2
        assert notes.samples[switch_to("lora")][side] == notes.samples[switch_inside("lora")][side] == [2.0] * 6


def test_pictures_differ_by_their_worst_colour() -> None:
    def png(colour: tuple[int, int, int]) -> bytes:
        file = io.BytesIO()
        picture = Image.new("RGB", (4, 4), "black")
        picture.putpixel((1, 2), colour)
        picture.save(file, "PNG")
        return file.getvalue()

    assert greatest_difference(png((9, 0, 250)), png((7, 1, 10))) == 240
    assert greatest_difference(png((9, 0, 250)), png((9, 0, 250))) == 0


def test_a_process_is_weighed_with_its_children() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        assert len(family_of(process.pid)) == 2
        peer = Peer(process, Path())
        ours = OurServer(process, 0, Path())
        assert 0 < peak_mib_of(peer) < peak_mib_of(ours)
        assert processor_seconds_of(ours) > 0
        process.communicate(b"\n")


def test_processor_time_is_of_user_and_system() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    stat = f"7 (a ) name) S 1 7 7 0 -1 0 10 11 12 13 {ticks} {2 * ticks} 99 99"
    assert processor_seconds(stat) == 3


@pytest.mark.parametrize(
    ("asked", "span"), [(None, (0, 10)), ("bytes=0-3", (0, 4)), ("bytes=4-", (4, 6)), ("bytes=8-99", (8, 2))]
)
def test_ranges(asked: str | None, span: tuple[int, int]) -> None:
    assert span_of(asked, 10) == span


def client_of(address: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="bench",
        aws_secret_access_key="bench",
    )


def test_the_bucket_has_no_other_keys_than_its_files(tmp_path: Path) -> None:
    (tmp_path / BUCKET).mkdir()
    (tmp_path / BUCKET / "empty").touch()
    with bucket_server(tmp_path) as address:
        s3 = client_of(address)
        assert s3.get_object(Bucket=BUCKET, Key="empty")["Body"].read() == b""
        for call in (s3.get_object, s3.head_object):
            with pytest.raises(ClientError) as missing:
                call(Bucket=BUCKET, Key="absent")
            assert missing.value.response["Error"]["Code"] in ("NoSuchKey", "404")


def test_the_container_fetches_published_subjects(tmp_path: Path) -> None:
    adapter, full = tmp_path / "adapter", tmp_path / "full"
    adapter.mkdir()
    (full / "unet").mkdir(parents=True)
    (adapter / LORA_WEIGHTS).write_bytes(b"low rank")
    (full / "unet" / "weights.safetensors").write_bytes(bytes(range(256)) * 2**17)  # 32 MiB: several ranges
    (full / "model_index.json").write_text("{}")
    buckets = tmp_path / "buckets"
    for subject in (Subject("thin", "lora", adapter), Subject("thick", "full", full)):
        publish(subject, TOYWORLD, buckets)
    with bucket_server(buckets) as address:
        store = SubjectStore(client_of(address), BUCKET, tmp_path / "cache", 2**30)
        thin, thick = (store.fetch(store.manifest(name, VERSION)) for name in ("thin", "thick"))
    assert (thin / LORA_WEIGHTS).read_bytes() == b"low rank"
    assert (thick / "unet" / "weights.safetensors").stat().st_size == 2**25
    assert not (thick / "model_index.json").exists()


class Opened:
    """In place of a pipeline."""

    def __init__(self, directory: str) -> None:
        self.calls = [directory]

    def load_lora_weights(self, directory: str, weight_name: str, adapter_name: str = "default") -> None:
        assert weight_name == LORA_WEIGHTS
        self.calls.append(f"load {directory} {adapter_name}")

    def set_adapters(self, name: str) -> None:
        self.calls.append(f"set {name}")

    def enable_lora(self) -> None:
        self.calls.append("enable")

    def disable_lora(self) -> None:
        self.calls.append("disable")


def test_one_peer_keeps_what_it_has_loaded_and_the_other_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import generate_peer

    opened: list[str] = []

    def open_pipeline(directory: str) -> Opened:
        opened.append(directory)
        return Opened(directory)

    monkeypatch.setattr(generate_peer, "open_pipeline", open_pipeline)
    assert set(generate_peer.SCHEDULERS) == set(get_args(Scheduler))
    subjects = {"a": ("lora", "A"), "b": ("lora", "B"), "c": ("full", "C")}
    visits = ["a", "a", "b", "c", "b", "c", None, "a"]

    keeper = generate_peer.Keeper("base", subjects)
    drawn = [keeper.select(name) for name in visits]
    assert opened == ["base", "C"]
    assert drawn[3] is drawn[5] and drawn[0] is drawn[1] is drawn[7]
    assert drawn[0].calls == [
        *("base", "load A a", "enable", "set a", "set a", "load B b", "set b", "set b", "disable", "enable", "set a")
    ]

    opened.clear()
    reloader = generate_peer.Reloader("base", subjects)
    last = [reloader.select(name) for name in visits][-1]
    assert opened == ["base", "base", "base", "C", "base", "C", "base", "base"]
    assert last.calls == ["base", "load A default"]
