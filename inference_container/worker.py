"""The process that draws. This module is light: the heavy ones load while the base model's files are verified.

It ends when the server does. A failure that leaves it unable to go on ends it too: the server starts a new one.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys

from contracts.errors import DreamdropError
from diffusion.verification import begin_verification
from inference_container.platform import Platform

_log = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    """`python -m inference_container.worker FD`; FD is an inherited, connected socket."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a signal to the whole group is the server's to handle
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s worker %(levelname)s %(message)s")
    connection = socket.socket(fileno=int(arguments[0]))
    platform = Platform.from_environment(os.environ)
    verification = begin_verification(platform.model_directory)
    from inference_container.drawing import build_generator, serve_connection

    try:
        generator = build_generator(platform, verification)
    except DreamdropError as error:
        _log.error("%s", error)
        return os.EX_CONFIG
    serve_connection(connection, generator)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
