"""SSM parameters that every account can read.

Wart: MiniStack knows those of two machine images only, and refuses, as AWS does, to let anybody write one.
"""

from __future__ import annotations

from collections.abc import Mapping

from ministack.services import ssm


def publish(parameters: Mapping[str, str]) -> None:
    """Name -> value."""
    ssm._PUBLIC_AMI_PARAMETERS.update(parameters)
