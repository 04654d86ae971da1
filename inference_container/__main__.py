"""The container's program: `python -m inference_container serve`."""

from __future__ import annotations

import logging
import os
import sys

from inference_container.platform import Platform
from inference_container.server import serve

USAGE = "usage: python -m inference_container serve\n"


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 after SIGTERM, 1 when nothing can be served, 64 for a wrong command line."""
    if arguments != ["serve"]:
        sys.stderr.write(USAGE)
        return os.EX_USAGE
    logging.basicConfig(level=logging.INFO, format="%(asctime)s server %(levelname)s %(message)s")
    try:
        return serve(Platform.from_environment(os.environ))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"cannot serve: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
