"""The local default base model: built once by its own program, imported once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dreamdrop.base_models import Progress, describe_directory, import_directory, imported_manifest
from dreamdrop.deployment import Deployment

TINY = "tiny"
SOURCE = "random weights, made by toyworld.tiny"
LICENCE = "Apache-2.0"


def ensure_tiny_base_model(deployment: Deployment, scratch: Path, on_progress: Progress) -> bool:
    """True when it had to be imported. Raises subprocess.CalledProcessError when it cannot be built."""
    if imported_manifest(deployment, TINY) is not None:
        return False
    directory = scratch / "base-models" / TINY
    directory.parent.mkdir(parents=True, exist_ok=True)
    # A program of its own: it loads torch, which this process never needs.
    subprocess.run([sys.executable, "-m", "toyworld.tiny", str(directory)], check=True, capture_output=True)
    import_directory(deployment, directory, describe_directory(directory, TINY, SOURCE, LICENCE), on_progress)
    return True
