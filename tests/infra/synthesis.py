"""A synthesized application, as tests look at it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

Resource = dict[str, Any]

os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "20")


@dataclass(frozen=True, order=True)
class Finding:
    rule: str
    construct: str


@dataclass(frozen=True)
class Synthesis:
    folder: Path
    findings: tuple[Finding, ...] = ()
    """What cdk-nag's AwsSolutions rules say, before anything is acknowledged."""

    @cached_property
    def data(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "dreamdrop-data.template.json").read_text()))

    @cached_property
    def service(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "dreamdrop-service.template.json").read_text()))

    @property
    def templates(self) -> list[Path]:
        return sorted(self.folder.glob("*.template.json"))

    def resources(self, kind: str) -> dict[str, Resource]:
        """Logical id -> resource of both stacks, by type."""
        both = {**self.data["Resources"], **self.service["Resources"]}
        return {name: resource for name, resource in both.items() if resource["Type"] == kind}

    def properties(self, kind: str) -> dict[str, Resource]:
        return {name: resource["Properties"] for name, resource in self.resources(kind).items()}

    def functions(self) -> dict[str, Resource]:
        """Handler -> properties."""
        return {function["Handler"]: function for function in self.properties("AWS::Lambda::Function").values()}

    def file_asset(self) -> Path:
        """The staged folder that all functions share."""
        return self._assets("files", lambda asset: asset["source"].get("packaging") == "zip")

    def image_asset(self, dockerfile: str) -> Path:
        return self._assets("dockerImages", lambda asset: asset["source"]["dockerFile"] == dockerfile)

    def _assets(self, kind: str, wanted: Any) -> Path:
        assets = json.loads((self.folder / "dreamdrop-service.assets.json").read_text())[kind]
        (found,) = [asset for asset in assets.values() if wanted(asset)]
        return self.folder / str(found["source"].get("path") or found["source"]["directory"])


def synthesize(environment: str, folder: Path) -> Synthesis:
    """Takes seconds."""
    from aws_cdk import App
    from cdk_nag import AwsSolutionsChecks

    import app

    application = App(outdir=str(folder), context={**app.context_of_project(), "environment": environment})
    app.build(application)
    application.synth()
    report = AwsSolutionsChecks().validate_scope(application)
    found = {Finding(one.rule_name, at.construct_path) for one in report.violations for at in one.violating_resources}
    return Synthesis(folder, tuple(sorted(found)))


def statements(policies: dict[str, Resource]) -> list[tuple[str, Resource]]:
    """(logical id of the policy, statement) of every policy document."""
    return [(name, one) for name, policy in policies.items() for one in policy["PolicyDocument"]["Statement"]]


def listed(value: Any) -> list[Any]:
    """Action and Resource hold one thing or a list of things."""
    return value if isinstance(value, list) else [value]
