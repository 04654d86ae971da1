"""Looks for secrets in every file that git keeps.

python -m tests.secret_scan [FOLDER]      names what it found and fails; FOLDER is a git checkout, this one by default
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from detect_secrets import SecretsCollection
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.settings import transient_settings

# A checksum looks as random as a key, and this repository is full of checksums. Keys have forms of their own.
LEFT_OUT = {"Base64HighEntropyString", "HexHighEntropyString"}
BINARY = {".safetensors", ".png", ".jpg", ".webp", ".heic"}


@dataclass(frozen=True)
class Found:
    file: str
    line: int
    kind: str
    value: str


# (file, value) -> why it is no secret.
LOCAL = "of the local cloud, which knows no secrets"
THROWN_AWAY = "of a server that lives as long as the test"
HARMLESS = {
    ("dreamdrop/deployment.py", "local"): LOCAL,
    ("tests/e2e/test_stock_cdk.py", "local"): LOCAL,
    ("benchmarks/generate_sides.py", "bench"): THROWN_AWAY,
    ("tests/containers/inference_parts.py", "testing"): THROWN_AWAY,
    ("tests/integration/sagemaker_harness.py", "test"): THROWN_AWAY,
    ("tests/unit/test_bench_generate.py", "bench"): THROWN_AWAY,
    ("tests/unit/test_web.py", "secret/+"): "signs one request to nobody, for comparison with botocore",
}


def kept_files(folder: Path) -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=folder, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and Path(name).suffix not in BINARY]


def scan(folder: Path) -> list[Found]:
    plugins = {plugin.__name__ for plugin in get_mapping_from_secret_type_to_class().values()} - LEFT_OUT
    secrets = SecretsCollection(root=str(folder))
    with transient_settings({"plugins_used": [{"name": name} for name in sorted(plugins)]}):
        secrets.scan_files(*kept_files(folder))
    return [Found(file, one.line_number, one.type, str(one.secret_value)) for file, one in secrets]


def main(folder: Path, harmless: Mapping[tuple[str, str], str]) -> None:
    everything = scan(folder)
    found = [one for one in everything if (one.file, one.value) not in harmless]
    if found:
        lines = [f"{one.file}:{one.line}: {one.kind}" for one in found]
        cure = "If one is none, say why in tests/secret_scan.py; if it is one, revoke it: a commit is for ever."
        raise SystemExit("\n".join(["These look like secrets:", *lines, cure]))
    if gone := harmless.keys() - {(one.file, one.value) for one in everything}:
        raise SystemExit(f"Excused and not there any more; take it out of tests/secret_scan.py: {sorted(gone)}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]).resolve(), {})
    else:
        main(Path.cwd(), HARMLESS)
