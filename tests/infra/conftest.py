"""Synthesizes once per session and environment: it takes seconds."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.infra.synthesis import Synthesis

os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "20")


def _synthesize(environment: str, folder: Path) -> Synthesis:
    from aws_cdk import App

    import app

    application = App(outdir=str(folder), context={**app.context_of_project(), "environment": environment})
    app.build(application)
    application.synth()
    return Synthesis(folder)


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Synthesis:
    return _synthesize("local", tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Synthesis:
    """With the settings that are off by default."""
    from infra import settings

    with pytest.MonkeyPatch.context() as patch:
        changed = replace(settings.LOCAL, blocked_words=("red scarf", "hat"), watermark="made, by us")
        patch.setitem(settings.ENVIRONMENTS, "local", changed)
        return _synthesize("local", tmp_path_factory.mktemp("guarded"))


@pytest.fixture(scope="session")
def production(tmp_path_factory: pytest.TempPathFactory) -> Synthesis:
    return _synthesize("production", tmp_path_factory.mktemp("production"))
