"""Synthesizes once per session and environment: it takes seconds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.infra.synthesis import Synthesis, synthesize


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Synthesis:
    return synthesize("local", tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Synthesis:
    """Production with the settings that are off by default."""
    from infra import settings

    with pytest.MonkeyPatch.context() as patch:
        changed = replace(
            settings.PRODUCTION,
            blocked_words=("red scarf", "hat"),
            watermark="made, by us",
            private_hosting=True,
            oidc_issuer="https://login.example/realms/art",
            oidc_audience=("dreamdrop", "dreamdrop-beta"),
            inference_instance_type="ml.p3.2xlarge",  # has a volume
        )
        patch.setitem(settings.ENVIRONMENTS, "production", changed)
        return synthesize("production", tmp_path_factory.mktemp("guarded"))


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Synthesis:
    return synthesize("sandbox", tmp_path_factory.mktemp("sandbox"))


@pytest.fixture(scope="session")
def production(tmp_path_factory: pytest.TempPathFactory) -> Synthesis:
    return synthesize("production", tmp_path_factory.mktemp("production"))


@pytest.fixture(params=["local", "sandbox", "production", "guarded"])
def each(request: pytest.FixtureRequest) -> Synthesis:
    """Every environment in turn."""
    synthesis: Synthesis = request.getfixturevalue(request.param)
    return synthesis
