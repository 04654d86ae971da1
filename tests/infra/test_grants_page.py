"""docs/grants.md speaks of the grants of today: make test-grants proves them, this sees that it was asked to."""

from __future__ import annotations

from infra.packaging import ROOT
from tests.grants.granted import grants
from tests.grants.page import PAGE, rows
from tests.infra.synthesis import Synthesis


def test_the_page_has_every_grant_of_the_template_and_no_other(local: Synthesis) -> None:
    written = rows((ROOT / PAGE).read_text(encoding="utf-8"))
    granted = {(grant.role, grant.action, grant.resources) for grant in grants(local)}
    assert written == granted, "write it anew: make test-grants WRITE_GRANTS=1"
