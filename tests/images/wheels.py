"""The wheels that a lock file stands for on the images' platform, and their sizes, without downloading them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

UV = Path(sys.executable).with_name("uv")
_PLATFORM = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:")

_OLD_NAMES = {17: "manylinux2014_x86_64", 12: "manylinux2010_x86_64", 5: "manylinux1_x86_64"}
_PLATFORMS = [
    name
    for minor in range(36, 4, -1)  # Debian 12 has glibc 2.36
    for name in (f"manylinux_2_{minor}_x86_64", _OLD_NAMES.get(minor))
    if name
]
_RANKS: dict[Tag, int] = {
    tag: rank
    for rank, tag in enumerate(
        [*cpython_tags((3, 11), platforms=_PLATFORMS), *compatible_tags((3, 11), "cp311", _PLATFORMS)]
    )
}


@dataclass(frozen=True)
class Wheel:
    name: str
    address: str
    sha256: str

    def size(self) -> int:
        """In bytes, as the package index states it. Raises OSError for a wheel that is not there."""
        with urllib.request.urlopen(urllib.request.Request(self.address, method="HEAD"), timeout=60) as answer:
            return int(answer.headers["Content-Length"])


def locked_wheels(lock: Path) -> Iterator[Wheel]:
    """Raises CalledProcessError if a package has no wheel for the platform."""
    words = ["pip", "compile", "--quiet", "--no-deps", "--no-header", "--format", "pylock.toml", *_PLATFORM, str(lock)]
    written = subprocess.run([UV, *words], check=True, text=True, capture_output=True).stdout
    for package in tomllib.loads(written)["packages"]:
        wheel = min(package["wheels"], key=_as_pip_prefers)
        yield Wheel(package["name"], wheel["url"], wheel["hashes"]["sha256"])


def _as_pip_prefers(wheel: dict[str, Any]) -> tuple[int, int]:
    """The most specific tag first, then the highest build number."""
    _, _, build, tags = parse_wheel_filename(wheel["url"].rpartition("/")[2])
    return min(_RANKS[tag] for tag in tags if tag in _RANKS), -(build[0] if build else 0)


def pins(lock: Path) -> dict[str, str]:
    """Name -> version of every package of a lock file."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(), re.MULTILINE))
