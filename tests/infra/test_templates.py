"""The templates against CloudFormation's own schemas."""

from __future__ import annotations

import pytest
from cfnlint.api import ManualArgs, lint

from tests.infra.synthesis import Synthesis

# The CDK repeats as DependsOn what a reference says already.
IGNORED = ["W3005"]


@pytest.mark.parametrize("environment", ["local", "production", "guarded"])
def test_cloudformation_knows_every_property(environment: str, request: pytest.FixtureRequest) -> None:
    synthesis: Synthesis = request.getfixturevalue(environment)
    problems = [
        f"{template.name}: {found}"
        for template in synthesis.templates
        for found in lint(template.read_text(), config=ManualArgs(regions=["us-east-1"], ignore_checks=IGNORED))
    ]
    assert problems == []
