"""What the service template grants: one entry for each action of each statement of each role."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tests.grants.elsewhere import page_for
from tests.infra.synthesis import Resource, Synthesis, listed

_HASH = re.compile(r"[0-9A-F]{8}$")


@dataclass(frozen=True, order=True)
class Grant:
    role: str
    action: str
    resources: str
    position: int
    """Of the statement in the role's policy."""

    @property
    def page(self) -> str | None:
        """The page of AWS that asks for it, if the local cloud cannot."""
        return page_for(self.role, self.action)


def readable(value: Any) -> str:
    """An ARN of the template without partition, account and hashes."""
    if isinstance(value, str):
        return value
    ((kind, argument),) = value.items()
    if kind == "Fn::Join":
        text = "".join(readable(part) for part in argument[1])
        return re.sub(r"^arn:[^:]*:([^:]*):[^:]*:[^:]*:", r"\1:", text)
    if kind == "Fn::GetAtt":
        return _HASH.sub("", argument[0])
    if kind == "Fn::ImportValue":
        return re.sub(r".*FnGetAtt([A-Za-z]+?)[0-9A-F]{8}Arn[0-9A-F]{8}$", r"\1", argument)
    if kind == "Fn::Sub":
        return "images"
    if kind == "Ref":
        return "" if argument.startswith("AWS::") else _HASH.sub("", argument)
    return "".join(readable(part) for part in argument if not isinstance(part, int | str))


def role_of(policy: Resource) -> str:
    """The logical id of the one role that a policy belongs to."""
    (role,) = policy["Roles"]
    return str(role["Ref"])


def grants(synthesis: Synthesis) -> list[Grant]:
    found = []
    for policy in synthesis.properties("AWS::IAM::Policy").values():
        role = _HASH.sub("", role_of(policy))
        for position, statement in enumerate(policy["PolicyDocument"]["Statement"]):
            resources = ", ".join(dict.fromkeys(readable(one) for one in listed(statement["Resource"])))
            if "Condition" in statement:
                resources += f" if {json.dumps(statement['Condition'], sort_keys=True)}"
            found += [Grant(role, action, resources, position) for action in listed(statement["Action"])]
    return sorted(found)
