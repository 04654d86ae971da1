"""python -m dreamdrop.local: the local cloud in the foreground, until Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from dreamdrop.local.cloud import run
from dreamdrop.local.errors import LocalCloudError
from dreamdrop.local.settings import DEFAULT_PORT, CloudSettings


def parse(arguments: list[str]) -> CloudSettings:
    parser = argparse.ArgumentParser(prog="python -m dreamdrop.local", description=__doc__)
    parser.add_argument("--cdk-out", type=Path, default=Path("cdk.out"), help="the synthesized application")
    parser.add_argument("--state", type=Path, default=Path(".local"), help="where everything is kept")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT)
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--no-deploy", action="store_true", help="start with the stacks that are there")
    parser.add_argument("--parent-pid", type=int, help="stop when this process has ended")
    parser.add_argument("--decisions", type=Path, help="append every IAM decision to this file; with AUTH=true")
    parser.add_argument("--faults", action="store_true", help="calls can be made to go wrong: docs/resilience.md")
    parser.add_argument("--training-slots", type=int, default=1, help="training jobs that run at once")
    options = parser.parse_args(arguments)
    return CloudSettings(
        cdk_out=options.cdk_out.resolve(),
        state=options.state.resolve(),
        port=options.port,
        region=options.region,
        deploy=not options.no_deploy,
        parent_pid=options.parent_pid,
        decisions=options.decisions.resolve() if options.decisions else None,
        faults=options.faults,
        training_slots=options.training_slots,
    )


def main(arguments: list[str]) -> int:
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "WARNING"), format="%(levelname)s %(name)s: %(message)s")
    try:
        run(parse(arguments))
    except LocalCloudError as error:
        sys.stderr.write(f"dreamdrop: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(code)  # the emulator's worker threads may be waiting for a task that has no one left to wait for it
