"""Renders the state machines of a synthesized application as plain JSON, for asl-validator and for tests.

python -m tests.infra.asl cdk.out out/asl      writes one file a machine and names it on standard output
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PLACEHOLDER = "arn:aws:lambda:us-east-1:000000000000:function:placeholder"


def rendered(value: Any) -> str:
    """A string, or Fn::Join of strings and references; a reference becomes an ARN of the right form."""
    if isinstance(value, str):
        return value
    if "Fn::Join" in value:
        separator, parts = value["Fn::Join"]
        return str(separator).join(rendered(part) for part in parts)
    return "aws" if value == {"Ref": "AWS::Partition"} else PLACEHOLDER


def definitions(template: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Logical id -> definition of every state machine."""
    return {
        name: json.loads(rendered(resource["Properties"]["DefinitionString"]))
        for name, resource in template["Resources"].items()
        if resource["Type"] == "AWS::StepFunctions::StateMachine"
    }


def main(cdk_out: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for template in sorted(cdk_out.glob("*.template.json")):
        for name, definition in definitions(json.loads(template.read_text())).items():
            path = target / f"{template.name.removesuffix('.template.json')}-{name}.json"
            path.write_text(json.dumps(definition, indent=2))
            written.append(path)
    if not written:
        raise SystemExit(f"There is no state machine in {cdk_out}. Synthesize first.")
    sys.stdout.writelines(f"{path}\n" for path in written)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
