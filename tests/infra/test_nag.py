"""AWS's own rules for a secure solution, in every environment."""

from __future__ import annotations

from tests.infra.nag import ACKNOWLEDGED, unacknowledged
from tests.infra.synthesis import Finding, Synthesis


def test_every_finding_is_mended_or_acknowledged_with_its_reason(each: Synthesis) -> None:
    assert each.findings
    assert unacknowledged(each.findings) == []


def test_nothing_is_acknowledged_that_is_not_found(
    local: Synthesis, sandbox: Synthesis, production: Synthesis, guarded: Synthesis
) -> None:
    findings = {finding for synthesis in (local, sandbox, production, guarded) for finding in synthesis.findings}
    assert [one for one in ACKNOWLEDGED if not any(one.covers(finding) for finding in findings)] == []


def test_a_finding_elsewhere_is_not_covered_by_an_acknowledgement() -> None:
    elsewhere = [
        Finding("AwsSolutions-IAM5[Action::s3:*]", "dreamdrop-service/Hosting/Role/DefaultPolicy/Resource"),
        Finding("AwsSolutions-IAM5[Resource::*]", "dreamdrop-service/Other/ThingRole/DefaultPolicy/Resource"),
        Finding("AwsSolutions-APIG4", "dreamdrop-service/Api/Api/POST--v1--generations/Resource"),
    ]
    assert len(unacknowledged(elsewhere)) == len(elsewhere)
