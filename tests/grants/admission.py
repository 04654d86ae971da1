"""Proves the grants of one role: it begins with none, and each action that a flow is denied is granted before the next
try. So every grant is absent once, and its flow seen to fail for that; what nothing asks for is never granted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ministack.core.iam_evaluator import fnmatch_iam_cs

from dreamdrop.deployment import Deployment
from tests.grants.granted import Grant
from tests.infra.synthesis import listed

Flow = Callable[[], str]
"""Performs the smallest flow and returns how it failed; empty when it did not."""

MOST_TRIES = 30


@dataclass
class Ledger:
    """Grant -> (the flow that fails without it, how)."""

    proofs: dict[Grant, tuple[str, str]] = field(default_factory=dict)


@dataclass
class Decisions:
    """What the local cloud has written since the last look."""

    file: Path
    position: int = 0

    def skip(self) -> None:
        self.position = self.file.stat().st_size if self.file.exists() else 0

    def denied(self, role_name: str) -> list[dict[str, Any]]:
        with self.file.open("rb") as lines:
            lines.seek(self.position)
            decisions = [json.loads(line) for line in lines]
        mine = [one for one in decisions if f":assumed-role/{role_name}/" in one["principal"]]
        return [one for one in mine if not one["allowed"]]


class Admission:
    def __init__(
        self, deployment: Deployment, decisions: Decisions, ledger: Ledger, role_name: str, grants: list[Grant]
    ) -> None:
        self._iam = deployment.client("iam")
        self._decisions = decisions
        self._ledger = ledger
        self._role = role_name
        self._grants = [grant for grant in grants if grant.page is None]
        (self._policy,) = self._iam.list_role_policies(RoleName=role_name)["PolicyNames"]
        self._whole = self._iam.get_role_policy(RoleName=role_name, PolicyName=self._policy)["PolicyDocument"]
        self._admitted = {grant for grant in grants if grant.page is not None}

    def __enter__(self) -> Admission:
        self._deploy()
        return self

    def __exit__(self, *_: object) -> None:
        self._put(self._whole["Statement"])

    def prove(self, name: str, flow: Flow) -> None:
        """Runs the flow until nothing is denied any more."""
        for _ in range(MOST_TRIES):
            self._decisions.skip()
            failure = flow()
            denied = self._decisions.denied(self._role)
            if not denied:
                assert not failure, f"{name} fails with all that it asked for: {failure}"
                return
            grant = self._missing(denied[0])
            assert failure, f"{name} does not notice that it lacks {grant.action}"
            self._ledger.proofs[grant] = (name, _short(failure))
            self._admitted.add(grant)
            self._deploy()
        raise AssertionError(f"{name} does not come to an end")

    def unneeded(self) -> list[Grant]:
        return [grant for grant in self._grants if grant not in self._admitted]

    def _missing(self, denied: dict[str, Any]) -> Grant:
        action, resource = denied["action"], denied["resource"]
        for grant in self._grants:
            patterns = listed(self._whole["Statement"][grant.position]["Resource"])
            fits = any(fnmatch_iam_cs(resource, pattern) for pattern in patterns)
            if grant.action == action and fits and grant not in self._admitted:
                return grant
        raise AssertionError(f"The template does not grant {action} on {resource} to {self._role}.")

    def _deploy(self) -> None:
        statements = []
        for position, statement in enumerate(self._whole["Statement"]):
            actions = [a for a in listed(statement["Action"]) if self._has(position, a)]
            if actions:
                statements.append({**statement, "Action": actions})
        self._put(statements)

    def _has(self, position: int, action: str) -> bool:
        return any(grant.position == position and grant.action == action for grant in self._admitted)

    def _put(self, statements: list[dict[str, Any]]) -> None:
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        self._iam.put_role_policy(RoleName=self._role, PolicyName=self._policy, PolicyDocument=document)


def _short(failure: str) -> str:
    """The kind of failure, without what differs from run to run."""
    return failure.splitlines()[0].strip()[:60]
