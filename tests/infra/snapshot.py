"""What each environment consists of, at a glance: the logical ids of every stack by type.

make snapshot      writes the pages anew, after a change that is meant
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from infra.settings import ENVIRONMENTS
from tests.infra.synthesis import Synthesis, synthesize

FOLDER = Path(__file__).parent / "snapshots"
COMMAND = "make snapshot"


def page(environment: str) -> Path:
    return FOLDER / f"{environment}.txt"


def snapshot(synthesis: Synthesis) -> str:
    lines = []
    for template in synthesis.templates:
        resources = json.loads(template.read_text())["Resources"]
        ids = defaultdict(list)
        for name, resource in resources.items():
            ids[resource["Type"]].append(name)
        lines.append(f"{template.name.partition('.')[0]}: {len(resources)} resources")
        for kind, names in sorted(ids.items()):
            lines += [f"  {kind}: {len(names)}", *(f"    {name}" for name in sorted(names))]
    return "\n".join(lines) + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for environment in ENVIRONMENTS:
        with tempfile.TemporaryDirectory() as folder:
            page(environment).write_text(snapshot(synthesize(environment, Path(folder))))
        sys.stdout.write(f"{page(environment)}\n")


if __name__ == "__main__":
    main()
