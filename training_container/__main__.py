"""`python -m training_container train`: the process boundary of a training job.

Exit code 0 is success. Every failure is written to output/failure as a typed error's text, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import logging
import sys

from diffusion.verification import begin_verification
from training_container.failures import as_training_failure
from training_container.launch import launch, processes_wanted
from training_container.platform import Platform

logger = logging.getLogger("training")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training_container", description=__doc__)
    parser.add_argument("command", choices=["train"], help="what SageMaker appends to the image's entry point")
    parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    platform = Platform.from_environment()
    if (count := processes_wanted()) > 1:
        return launch(count, platform)
    platform.catch_stop_signal()  # before the heavy imports, which take seconds
    verification = begin_verification(platform.base_model)
    try:
        from training_container.dreambooth.team import Team
        from training_container.train import train

        team = Team.join()
        train(platform, team, verification)
        team.leave()
    except Exception as error:
        failure = as_training_failure(error)
        logger.exception("%s", failure)
        platform.report_failure(failure)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
