"""What comes and goes in a template is seen, and meant."""

from __future__ import annotations

import difflib

import pytest

from infra.settings import ENVIRONMENTS
from tests.infra.snapshot import COMMAND, page, snapshot
from tests.infra.synthesis import Synthesis


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_each_environment_consists_of_what_was_reviewed(environment: str, request: pytest.FixtureRequest) -> None:
    synthesis: Synthesis = request.getfixturevalue(environment)
    reviewed = page(environment).read_text().splitlines()
    changed = difflib.unified_diff(reviewed, snapshot(synthesis).splitlines(), "reviewed", "now", n=1, lineterm="")
    difference = "\n".join(changed)
    assert not difference, f"{environment}:\n{difference}\n\nIf this is meant: {COMMAND}"
