"""A synthesized application, as tests look at it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

Resource = dict[str, Any]


@dataclass(frozen=True)
class Synthesis:
    folder: Path

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


def statements(policies: dict[str, Resource]) -> list[tuple[str, Resource]]:
    """(logical id of the policy, statement) of every policy document."""
    return [(name, one) for name, policy in policies.items() for one in policy["PolicyDocument"]["Statement"]]


def listed(value: Any) -> list[Any]:
    """Action and Resource hold one thing or a list of things."""
    return value if isinstance(value, list) else [value]
