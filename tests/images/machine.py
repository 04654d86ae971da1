"""Whether this machine can build and run images without docker, and what its pip is told about where packages are."""

from __future__ import annotations

import ast
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from tests.images.launcher import NAMESPACES

DEBIAN = "bookworm"  # its Python is the images' own: 3.11
TOOLS = ("buildah", "mmdebstrap")
_SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))


def obstacle() -> str | None:
    """What this machine lacks and no package brings. None: images can be built and run here."""
    if sys.platform != "linux":
        return "images are built and run with Linux's own means"
    if os.geteuid() != 0:
        return "mounting an image's file system needs root"
    if platform.freedesktop_os_release().get("VERSION_CODENAME") != DEBIAN:
        return f"the base image is made from the packages of Debian {DEBIAN}, and this machine has no source for them"
    if subprocess.run(["unshare", *NAMESPACES, "true"], capture_output=True, check=False).returncode != 0:
        return "this machine makes no namespaces (mount, pid, ipc, uts, net)"
    return None


def missing_tools() -> list[str]:
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def debian_sources() -> Path:
    return next(path for path in _SOURCES if path.exists())


def pip_options() -> dict[str, str]:
    """Option -> value, as this machine's pip has them from its files and, before those, its environment."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, text=True, capture_output=True
    ).stdout
    options = {}
    for line in sorted(listed.splitlines(), reverse=True):  # `:env:` comes last
        name, _, value = line.partition("=")
        options[name.rpartition(".")[2]] = ast.literal_eval(value)
    return options


def certificates(options: dict[str, str]) -> Path | None:
    """The bundle by which this machine trusts its package index, if it has one of its own."""
    named = options.get("cert") or os.environ.get("SSL_CERT_FILE")
    return Path(named) if named else None


def package_folders(options: dict[str, str]) -> list[Path]:
    """Folders of this machine that its pip takes wheels from: torch's CPU build is not on PyPI."""
    named = [Path(word.removeprefix("file://")) for word in options.get("find-links", "").split()]
    return [path for path in named if path.is_dir()]
