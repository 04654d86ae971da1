"""Builds images from Dockerfiles by buildah: no daemon, no registry, everything below one folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class BuildError(Exception):
    """The message ends with what the build wrote last."""


@dataclass(frozen=True)
class Store:
    """Images and containers; two stores know nothing of each other."""

    folder: Path

    def build(
        self, context: Path, dockerfile: str, image: str, *, arguments: Mapping[str, str], mounts: Sequence[Path] = ()
    ) -> None:
        """Never from layers of earlier builds. `mounts`: folders of this machine that RUN finds. Raises BuildError."""
        words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        words += [word for path in mounts for word in ("--volume", f"{path}:{path}:ro")]
        # buildah drops SHELL, HEALTHCHECK and ONBUILD in silence in every other format.
        built = self._run(
            "bud", "--isolation", "chroot", "--format", "docker", "--pull-never", *words,
            "--tag", image, "--file", str(context / dockerfile), str(context),
        )  # fmt: skip
        if built.returncode != 0:
            raise BuildError(f"{dockerfile} does not build:\n{(built.stdout + built.stderr)[-4000:]}")

    def has(self, image: str) -> bool:
        return self._run("inspect", "--type", "image", image).returncode == 0

    def config(self, image: str) -> dict[str, Any]:
        """The image's ENTRYPOINT, CMD, ENV, labels and so on, by the names of the OCI specification."""
        return dict(json.loads(self._output("inspect", "--type", "image", image))["OCIv1"]["config"])

    @contextmanager
    def file_system(self, image: str) -> Iterator[Path]:
        """A container's own root, with the image's files in it; it is gone afterwards."""
        container = self._output("from", "--pull-never", image)
        try:
            yield Path(self._output("mount", container))
        finally:
            self._run("umount", container)
            self._run("rm", container)

    def remove(self) -> None:
        for words in (["umount", "--all"], ["rm", "--all"], ["rmi", "--all", "--force"]):
            self._run(*words)
        shutil.rmtree(self.folder)

    def _output(self, *words: str) -> str:
        done = self._run(*words)
        if done.returncode != 0:
            raise BuildError(f"buildah {' '.join(words)}: {done.stderr[-2000:]}")
        return done.stdout.strip()

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        scratch = self.folder / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        place = ["--root", str(self.folder / "store"), "--runroot", str(self.folder / "run")]
        return subprocess.run(
            ["buildah", *place, "--storage-driver", "overlay", *words],
            env={**os.environ, "TMPDIR": str(scratch)},
            capture_output=True,
            text=True,
            check=False,
        )
