"""Reads a synthesized CDK application (`cdk.out`) as files: stacks in dependency order, assets, parameters."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from dreamdrop.local.errors import LocalCloudError

_EPOCH_OF_ZIP = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class FileAsset:
    path: Path
    zipped: bool
    bucket: str
    key: str

    def content(self) -> bytes:
        return zip_folder(self.path) if self.zipped else self.path.read_bytes()


@dataclass(frozen=True)
class StackTemplate:
    name: str
    template_file: Path

    @property
    def body(self) -> str:
        return self.template_file.read_text()

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


class Assembly:
    """Raises LocalCloudError when the folder holds no synthesized application."""

    def __init__(self, cdk_out: Path, account: str, region: str) -> None:
        self._root, self._account, self._region = cdk_out, account, region
        try:
            self._artifacts: dict[str, Any] = json.loads((cdk_out / "manifest.json").read_text())["artifacts"]
        except (OSError, ValueError, KeyError) as error:
            raise LocalCloudError(
                f"{cdk_out} holds no synthesized application ({type(error).__name__} at manifest.json).",
                "Synthesize it: make synth",
            ) from error

    @cached_property
    def stacks(self) -> list[StackTemplate]:
        """A stack comes after those that it depends on."""
        graph = {name: artifact.get("dependencies", []) for name, artifact in self._artifacts.items()}
        ordered = [name for name in TopologicalSorter(graph).static_order() if name in self._artifacts]
        return [
            StackTemplate(properties.get("stackName", name), self._root / properties["templateFile"])
            for name in ordered
            for properties in [self._artifacts[name].get("properties", {})]
            if self._artifacts[name]["type"] == "aws:cloudformation:stack"
        ]

    @cached_property
    def file_assets(self) -> list[FileAsset]:
        manifests = [
            json.loads((self._root / artifact["properties"]["file"]).read_text())
            for artifact in self._artifacts.values()
            if artifact["type"] == "cdk:asset-manifest"
        ]
        return [
            FileAsset(
                self._root / asset["source"]["path"],
                asset["source"].get("packaging") == "zip",
                self._fill(destination["bucketName"]),
                self._fill(destination["objectKey"]),
            )
            for manifest in manifests
            for asset in manifest.get("files", {}).values()
            for destination in asset["destinations"].values()
        ]

    def _fill(self, text: str) -> str:
        return (
            text.replace("${AWS::AccountId}", self._account)
            .replace("${AWS::Region}", self._region)
            .replace("${AWS::Partition}", "aws")
        )


def zip_folder(folder: Path) -> bytes:
    """The same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(file for file in folder.rglob("*") if file.is_file()):
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _EPOCH_OF_ZIP)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, path.read_bytes())
    return buffer.getvalue()
