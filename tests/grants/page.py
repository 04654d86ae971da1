"""docs/grants.md: what every role may do, and what fails without it."""

from __future__ import annotations

from collections.abc import Iterable

from tests.grants.admission import Ledger
from tests.grants.granted import Grant

PAGE = "docs/grants.md"

_HEAD = """# What every role may do, and what fails without it

Written by `make test-grants WRITE_GRANTS=1`, compared by `make test-grants`. In the local cloud, with IAM enforced,
each role of the service stack begins with nothing. The flow runs; the action that it is denied is granted; it runs
again, until nothing is denied. So each action below was missing once, with the failure that stands beside it, and no
role has an action that nothing asked for. Why so: [0030](decisions/0030-grants-from-nothing.md).
"""
_ELSEWHERE = """
## What the local cloud cannot exercise

Not proven here: each is asked for by a page of AWS.

| role | action | on | page |
|---|---|---|---|
"""


def render(grants: Iterable[Grant], ledger: Ledger) -> str:
    lines = [_HEAD]
    role = ""
    for grant in sorted(ledger.proofs):
        if grant.role != role:
            role = grant.role
            lines.append(f"\n## {role}\n\n| action | on | flow | how it fails |\n|---|---|---|---|\n")
        flow, failure = ledger.proofs[grant]
        lines.append(f"| `{grant.action}` | {_cell(grant.resources)} | {flow} | {_cell(failure)} |\n")
    lines.append(_ELSEWHERE)
    lines += [
        f"| {grant.role} | `{grant.action}` | {_cell(grant.resources)} | {grant.page} |\n"
        for grant in sorted(grants)
        if grant.page
    ]
    return "".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def rows(page: str) -> set[tuple[str, str, str]]:
    """(role, action, on) of every row."""
    found, role = set(), ""
    for line in page.splitlines():
        if line.startswith("## "):
            role = line.removeprefix("## ")
        cells = [cell.strip() for cell in line.replace("\\|", "\0").strip("|").split("|")]
        if line.startswith("| `"):
            found.add((role, cells[0].strip("`"), cells[1]))
        elif len(cells) == 4 and cells[1].startswith("`"):
            found.add((cells[0], cells[1].strip("`"), cells[2]))
    return found
