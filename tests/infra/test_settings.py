"""Settings are refused early, with the cure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from contracts.artifact import BaseModelManifest
from contracts.storage import MANIFEST
from dreamdrop.up import BASE_MODEL
from infra.settings import ENVIRONMENTS, LOCAL, settings_for

SQS_LONGEST_DELAY = 900


@pytest.mark.parametrize("prefix", ["", "Dreamdrop", "1st", "dream_drop", "dreamdrop-", "a" * 16])
def test_a_prefix_that_cannot_start_a_resource_name_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="lower-case letters"):
        settings_for("sandbox", prefix)


def test_an_unknown_environment_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="local, sandbox, production"):
        settings_for("staging", "dreamdrop")


def test_the_application_ends_with_the_cause_alone() -> None:
    wanted = json.dumps({"environment": "nonsense", "prefix": "dreamdrop"})
    project = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "app.py"], cwd=project, env=os.environ | {"CDK_CONTEXT_JSON": wanted},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr == "There is no environment 'nonsense'. Use one of: local, sandbox, production.\n"


@pytest.mark.parametrize("words", [("red,hat",), ("hat", " "), ("",), ("ä" * 513,), ("word",) * 300])
def test_blocked_words_that_would_not_arrive_as_they_are_meant_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="blocked_words"):
        replace(LOCAL, blocked_words=words)
    assert replace(LOCAL, blocked_words=("red hat", "ä" * 500)).blocked_words


def test_a_watermark_fits_a_containers_variable() -> None:
    with pytest.raises(ValueError, match="watermark"):
        replace(LOCAL, watermark="w" * 1025)


@pytest.mark.parametrize(
    ("setting", "seconds"),
    [("training_wait_seconds", 1799), ("training_keep_alive_seconds", 0), ("training_keep_alive_seconds", 3601)],
)
def test_what_sagemaker_would_refuse_is_refused_first(setting: str, seconds: int) -> None:
    with pytest.raises(ValueError, match=setting):
        replace(LOCAL, **{setting: seconds})


@pytest.mark.parametrize(
    ("issuer", "audience"),
    [
        ("https://login.example", ()),
        ("https://login.example", ("",)),
        ("", ("dreamdrop",)),
        ("http://login.example", ("dreamdrop",)),
        ("https://login.example/#realm", ("dreamdrop",)),  # what follows is how a row tells issuer and subject apart
        ("login.example", ("dreamdrop",)),
    ],
)
def test_an_issuer_that_could_let_nobody_or_anybody_in_is_refused(issuer: str, audience: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="oidc_issuer"):
        replace(LOCAL, oidc_issuer=issuer, oidc_audience=audience)
    assert replace(LOCAL, oidc_issuer="https://login.example/realms/art", oidc_audience=("dreamdrop",)).oidc_issuer


def test_callers_sign_by_default() -> None:
    assert {(settings.oidc_issuer, settings.oidc_audience) for settings in ENVIRONMENTS.values()} == {("", ())}


def test_a_day_has_room_for_a_run() -> None:
    with pytest.raises(ValueError, match="daily_budget_dollars"):
        replace(LOCAL, training_budget_dollars=10, daily_budget_dollars=9)


def test_nothing_is_blocked_or_marked_by_default() -> None:
    assert {(settings.blocked_words, settings.watermark) for settings in ENVIRONMENTS.values()} == {((), "")}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_asking_is_throttled_more_than_looking(environment: str) -> None:
    settings = settings_for(environment, "dreamdrop")
    assert settings.write_throttling.rate < settings.read_throttling.rate
    assert settings.write_throttling.burst < settings.read_throttling.burst


def test_the_prefix_reaches_the_settings() -> None:
    assert settings_for("local", "team-a").prefix == "team-a"


def test_the_local_default_is_the_base_model_that_the_project_brings_along() -> None:
    """`dreamdrop up` imports it under the id that its own manifest gives."""
    assert LOCAL.default_base_model == BaseModelManifest.model_validate_json((BASE_MODEL / MANIFEST).read_bytes()).id


def test_an_execution_outlives_a_training() -> None:
    with pytest.raises(ValueError, match="machine_timeout_seconds"):
        replace(LOCAL, machine_timeout_seconds=LOCAL.longest_training_seconds)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_quiet_period_fits_a_queue(environment: str) -> None:
    settings = settings_for(environment, "dreamdrop")
    assert settings.quiet_period_seconds <= SQS_LONGEST_DELAY
