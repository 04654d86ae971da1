"""Synthesizes once per session and environment: it takes seconds."""

from __future__ import annotations

import os
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
def production(tmp_path_factory: pytest.TempPathFactory) -> Synthesis:
    return _synthesize("production", tmp_path_factory.mktemp("production"))
