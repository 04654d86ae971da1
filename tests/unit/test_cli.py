"""The command line: exit codes, what goes to stdout and what to stderr, help from the contracts."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from contracts.errors import InvalidRequest, UnknownSubject
from contracts.generation import (
    MAX_IMAGES_PER_REQUEST,
    Generation,
    GenerationRequest,
    MixedSubject,
    Scheduler,
)
from contracts.training import DatasetInfo
from dreamdrop import cli, demo, up
from dreamdrop.cli import app, field_help, run_command_line
from dreamdrop.deployment import Deployment
from dreamdrop.local.record import CloudRecord

UPLOADED = "sources/" + "1" * 16 + "/" + "2" * 32
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = Path(__file__).parents[2]
ROBOT = ROOT / "examples/datasets/robot"
DEPLOYMENT = Deployment(
    region="us-east-1",
    api_url="http://127.0.0.1:4700/x",
    data_bucket="photos",
    table_name="t",
    state_machine_arn="m",
    subject_topic_arn="s",
    endpoint_url="http://127.0.0.1:4700",
    account="000000000000",
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "stderr", Console(stderr=True, width=200))


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(*arguments: str) -> int:
    return run_command_line(lambda: app(list(arguments)))


def test_a_failure_says_cause_and_cure_on_stderr_and_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("subjects") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "Failed (no_deployment): There is no local cloud up in" in said.err
    assert "Cure: Start it with: make up; or" in said.err


def test_a_region_that_is_missing_is_the_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "missing")
    assert run("subjects", "--aws") == 1
    assert "Cure: Name it with --region" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("generate", "robot"), ("generate", "robot", "x", "-n", "many"), ("fly",), ("drop", "x", "--wat")]
)
def test_bad_usage_exits_with_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    assert capsys.readouterr().out == ""


def test_a_value_outside_the_contract_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "robot", "x", "-n", str(MAX_IMAGES_PER_REQUEST + 1)) == 1
    assert "num_images_per_prompt" in capsys.readouterr().err


def test_help_uses_the_words_and_limits_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Same seed, same picture." in text
    assert "from 1 to 200" in field_help("num_inference_steps")
    assert "above 0 to 1" in field_help("strength")
    assert "A picture to start from" in text
    assert f"to {MAX_IMAGES_PER_REQUEST}" in field_help("num_images_per_prompt")
    assert "Example:" in text


def test_the_options_name_every_scheduler_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    run("generate", "--help")
    text = capsys.readouterr().out
    for name in get_args(Scheduler):
        assert name in text


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Path | GenerationRequest]:
    """What the client was called with: uploads and requests."""
    calls: list[Path | GenerationRequest] = []

    def upload(picture: Path) -> str:
        calls.append(picture)
        return UPLOADED

    def draw(request: GenerationRequest) -> Generation:
        calls.append(request)
        raise InvalidRequest("far enough")

    client = SimpleNamespace(upload_source=upload, generate=draw, wait_for_generation=id)
    monkeypatch.setattr(cli, "deployment_of", lambda *_: None)
    monkeypatch.setattr(cli, "Client", lambda _deployment: client)
    return calls


def test_options_that_are_not_given_are_left_open(asked: list[Path | GenerationRequest]) -> None:
    run("generate", "robot", "a robot")
    run("generate", "robot", "a robot", "--steps", "5", "--scheduler", "ddim")
    plain = GenerationRequest(subject="robot", prompt="a robot")
    assert asked == [plain, plain.model_copy(update={"num_inference_steps": 5, "scheduler": "ddim"})]


def test_every_option_of_a_picture_reaches_the_request(asked: list[Path | GenerationRequest]) -> None:
    run(
        *("generate", "robot", "a robot", "--lora-scale", "0.8", "--mix", "cat", "--mix", "party-car:0.5"),
        *("--source", "sketch.png", "--strength", "0.4", "--upscale", "2", "--format", "webp"),
        *("--version", "0123456789ab-1"),
    )
    assert asked == [
        Path("sketch.png"),
        GenerationRequest(
            subject="robot",
            prompt="a robot",
            lora_scale=0.8,
            mix=[MixedSubject(subject="cat"), MixedSubject(subject="party-car", lora_scale=0.5)],
            source_image=UPLOADED,
            strength=0.4,
            upscale=2,
            format="webp",
            version="0123456789ab-1",
        ),
    ]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--source", "sketch.png", "--strength", "0"), "strength"),
        (("--strength", "0.5"), "strength"),
        (("--mix", "cat:much"), "mix.0.lora_scale"),
        (("--mix", "cat:"), "mix.0.lora_scale"),
        (("--mix", "Cat"), "mix.0.subject"),
        (("--upscale", "9"), "upscale"),
        (("--version", "newest"), "version"),
    ],
)
def test_a_request_is_checked_before_anything_is_uploaded(
    asked: list[Path | GenerationRequest], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], named: str
) -> None:
    assert run("generate", "robot", "a robot", *arguments) == 1
    assert f"{named}: " in capsys.readouterr().err
    assert asked == []


def test_nothing_is_drawn_for_a_folder_that_cannot_be(
    asked: list[Path | GenerationRequest], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("taken").touch()
    assert run("generate", "robot", "a robot", "--source", "sketch.png", "--out", "taken") == 1
    assert "Failed (invalid_request): taken cannot be a folder" in capsys.readouterr().err
    assert asked == []


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


IN_ACCOUNT = ("--aws", "--prefix", "art", "--region", "eu-west-1")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("drop", "robot"),
            ["The training of robot goes on.", "dreamdrop subject robot\n", "dreamdrop delete robot\n"],
        ),
        (("drop", "robot", "--aws"), ["dreamdrop subject robot --aws\n", "dreamdrop delete robot --aws\n"]),
        (("drop", "robot", *IN_ACCOUNT), [f"dreamdrop delete robot {' '.join(IN_ACCOUNT)}\n"]),
        (("drop", "interrupted"), ["What was uploaded is trained nevertheless.", "dreamdrop delete interrupted\n"]),
        (("generate", "robot", "a robot", "--aws"), ["is drawn nevertheless", "dreamdrop cancel 4f2c --aws\n"]),
        (("delete", "robot", "--yes"), ["The deletion of robot goes on."]),
    ],
)
def test_ctrl_c_while_waiting_says_what_goes_on_and_how_to_end_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: list[str]
) -> None:
    client = SimpleNamespace(
        newest_run=lambda _name: None,
        drop=lambda _folder, name: interrupted() if name == "interrupted" else [],
        wait_until_ready=interrupted,
        generate=lambda _request: SimpleNamespace(id="4f2c"),
        wait_for_generation=interrupted,
        subject=id,
        delete=id,
        wait_until_gone=interrupted,
    )
    monkeypatch.setattr(cli, "deployment_of", lambda *_: None)
    monkeypatch.setattr(cli, "Client", lambda _deployment: client)
    monkeypatch.setattr(sys, "argv", ["dreamdrop"])
    assert run(*arguments) == 130
    said = capsys.readouterr().err
    for one in [*told, "Stopped."]:
        assert one in said


class Shelf:
    """Stands where the client stands: one subject, and what was done to it."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def subject(self, name: str) -> None:
        if name != "robot":
            raise UnknownSubject(f"There is no subject {name!r}.")

    def delete(self, name: str) -> None:
        self.done.append(f"delete {name}")

    def wait_until_gone(self, name: str) -> None:
        self.done.append(f"wait for {name}")


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    made = Shelf()
    monkeypatch.setattr(cli, "deployment_of", lambda *_: None)
    monkeypatch.setattr(cli, "Client", lambda _deployment: made)
    return made


def delete(*arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(app, ["delete", *arguments], input=typed)


def test_a_deletion_asks_for_the_name_again_and_waits(shelf: Shelf) -> None:
    told = delete("robot", typed="robot\n")
    assert told.exit_code == 0
    assert "cannot be brought back" in told.stderr
    assert told.stdout.endswith("robot is deleted.\n")  # before it, what was typed
    assert shelf.done == ["delete robot", "wait for robot"]


@pytest.mark.parametrize(
    ("arguments", "typed"),
    [(("robot",), "robto\n"), (("robot",), ""), (("rabbit",), "rabbit\n"), (("rabbit", "--yes"), "")],
)
def test_nothing_is_deleted_by_mistake(shelf: Shelf, arguments: tuple[str, ...], typed: str) -> None:
    assert delete(*arguments, typed=typed).exit_code != 0
    assert shelf.done == []


def test_a_script_deletes_without_a_question(shelf: Shelf) -> None:
    assert delete("robot", "--yes").stdout == "robot is deleted.\n"
    assert shelf.done == ["delete robot", "wait for robot"]


def test_neither_up_nor_demo_starts_anything_without_a_finished_base_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (up, demo):
        monkeypatch.setattr(module, "BASE_MODEL", tmp_path / "base_model")
    monkeypatch.setattr(up.synth, "synthesize", pytest.fail)
    for command in (["up"], ["demo", "--dataset", str(ROBOT)]):
        assert run(*command) == 1
        said = capsys.readouterr().err
        assert "Failed (invalid_base_model)" in said
        assert "make toyworld" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_unwind_and_exit_with_130(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned: list[bool] = []

    def journey(*_: object) -> None:
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        try:
            time.sleep(5)
        finally:
            cleaned.append(True)

    monkeypatch.setattr(demo, "run", journey)
    assert run("demo") == 130
    assert cleaned == [True]
    assert "Stopped." in capsys.readouterr().err


def test_a_demo_of_a_folder_that_is_not_there_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("demo", "--dataset", "missing") == 1
    assert "missing is not a folder" in capsys.readouterr().err
    assert not Path("out").exists()


def test_status_and_down_are_calm_when_nothing_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status") == 0
    assert run("down") == 0
    assert "not up" in capsys.readouterr().out


def test_the_introduction_of_up_names_bucket_api_page_and_the_next_commands() -> None:
    text = up.introduction(DEPLOYMENT)
    for told in (
        "s3://photos",
        "'http://127.0.0.1:4700/x/'",
        "--endpoint-url http://127.0.0.1:4700",
        "--aws-sigv4 aws:amz:us-east-1:execute-api --user 000000000000:local",
        "boto3.client",
    ):
        assert told in text


def test_a_taken_port_is_replaced_by_a_free_one() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert up.free_port(port) != port
    assert up.free_port(port) == port


@pytest.mark.parametrize(("wanted", "told"), [(4702, True), (4700, False)])
def test_a_cloud_that_is_up_on_another_port_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wanted: int, told: bool
) -> None:
    monkeypatch.setattr(up.process, "status", lambda _state: CloudRecord(1, 4700, "ready"))
    monkeypatch.setattr(Deployment, "local", lambda: DEPLOYMENT)
    assert run("up", "--port", str(wanted)) == 0
    said = capsys.readouterr()
    assert ("up already, on port 4700" in said.err) == told
    assert (f"down && {up.program()} up --port 4702" in said.err) == told
    assert "s3://photos" in said.out


def test_the_commands_that_are_shown_name_the_examples_subject_as_it_is_learned() -> None:
    prompt = DatasetInfo.parse((ROBOT / "dataset_info.json").read_bytes()).instance_prompt
    for text in (up.introduction(DEPLOYMENT), str(cli.generate_command.__doc__)):
        assert f"'{prompt} on the beach'" in text


def test_examples_of_exports_fit_the_base_model_of_the_subject_that_they_name() -> None:
    examples = [line for line in str(cli.export_command.__doc__).splitlines() if "dreamdrop export" in line]
    assert "export robot " in examples[0]
    assert [line for line in examples if "export robot " in line and "--format" in line] == []
