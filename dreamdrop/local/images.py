"""Image URI of the synthesized template -> the command that docker would run, without docker.

`cdk.out/*.assets.json` names the staged build folder of each image. Of its Dockerfile only WORKDIR, COPY, ENV,
ENTRYPOINT and CMD count: COPY is laid out as symbolic links below a root directory of the image, and absolute
paths of the image in the command and in ENV point into that root. FROM and RUN are not executed: the interpreter
that runs the local cloud must have the image's Python packages.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
from pathlib import Path, PurePosixPath
from string import Template
from typing import Any, NamedTuple

from dockerfile_parse import DockerfileParser

_PYTHON = re.compile(r"^python3?(\.\d+)?$")


class ImageError(Exception):
    """An image has no local command; the message says why and what to do."""


class ContainerCommand(NamedTuple):
    """What `docker run IMAGE` would start; the platform appends `train` or `serve` to argv."""

    argv: list[str]
    env: dict[str, str]  # the image's own variables only
    cwd: Path


class _StagedImage(NamedTuple):
    context: Path
    dockerfile: Path


class AssetImages:
    """Resolves the image assets of one cloud assembly. Thread-safe."""

    def __init__(self, cdk_out: Path, roots: Path, python: str = sys.executable) -> None:
        """`cdk_out`: the assembly; `roots`: a directory of ours for the images' file trees."""
        self._cdk_out = cdk_out.resolve()
        self._roots = roots.resolve()
        self._python = python
        self._resolved: dict[str, ContainerCommand] = {}
        self._lock = threading.Lock()

    def __call__(self, uri: str) -> ContainerCommand:
        """Raises ImageError for an image that is not an asset of the assembly or that has no local meaning."""
        with self._lock:
            tag = uri.rsplit(":", 1)[-1]
            if tag not in self._resolved:
                # The manifests are read anew: the assembly may have been synthesized again meanwhile.
                staged = staged_images(self._cdk_out).get(tag)
                if staged is None:
                    raise ImageError(
                        f"The image {uri} is not an asset of this app, so there is no local command for it. "
                        "Use an image asset of the app, or synthesize again if it was just added."
                    )
                self._resolved[tag] = materialise(staged.context, staged.dockerfile, self._roots / tag, self._python)
            return self._resolved[tag]


def staged_images(cdk_out: Path) -> dict[str, _StagedImage]:
    """Image tag -> staged build folder, of every asset manifest of the assembly."""
    images = {}
    for manifest in cdk_out.glob("*.assets.json"):
        for asset in json.loads(manifest.read_text()).get("dockerImages", {}).values():
            source = asset["source"]
            if "directory" not in source:
                continue
            context = cdk_out / source["directory"]
            dockerfile = context / source.get("dockerFile", "Dockerfile")
            for destination in asset["destinations"].values():
                images[destination["imageTag"]] = _StagedImage(context, dockerfile)
    return images


def materialise(context: Path, dockerfile: Path, root: Path, python: str = sys.executable) -> ContainerCommand:
    """Lays the image's files out below `root`, replacing what is there. Raises ImageError."""
    instructions, env = _final_stage(dockerfile)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    workdir = PurePosixPath("/")
    entrypoint: list[str] = []
    command: list[str] = []
    for instruction in instructions:
        kind, value = instruction["instruction"], instruction["value"]
        if kind == "WORKDIR":
            workdir = workdir / Template(value).safe_substitute(env)
        elif kind in ("COPY", "ADD"):
            _copy(context, Template(value).safe_substitute(env), workdir, root)
        elif kind == "ENTRYPOINT":
            entrypoint, command = _exec_form(kind, value), []
        elif kind == "CMD":
            command = _exec_form(kind, value)
    argv = entrypoint or command  # `train` or `serve` replaces CMD when there is an ENTRYPOINT
    if not argv:
        raise ImageError(f"{dockerfile} has no ENTRYPOINT. Add one in exec form, such as ['python', '-m', 'package'].")
    cwd = _inside(root, workdir)
    cwd.mkdir(parents=True, exist_ok=True)
    argv = [python if _PYTHON.match(argv[0]) else _translated(argv[0], root), *(_translated(a, root) for a in argv[1:])]
    return ContainerCommand(argv, _environment(env, root, cwd), cwd)


def _final_stage(dockerfile: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    try:
        with dockerfile.open("rb") as file:
            parser = DockerfileParser(fileobj=file)
            instructions, env = parser.structure, dict(parser.envs)
    except OSError as error:
        raise ImageError(f"{dockerfile} cannot be read ({error}). Synthesize again.") from error
    stages = [number for number, instruction in enumerate(instructions) if instruction["instruction"] == "FROM"]
    return instructions[stages[-1] :] if stages else instructions, env


def _exec_form(kind: str, value: str) -> list[str]:
    try:
        argv = json.loads(value)
    except json.JSONDecodeError:
        argv = None
    if not isinstance(argv, list) or not all(isinstance(part, str) for part in argv):
        raise ImageError(f'{kind} {value} is not in exec form. Write it as a JSON list, such as ["python", "-m", "x"].')
    return argv


def _copy(context: Path, value: str, workdir: PurePosixPath, root: Path) -> None:
    if "--from=" in value:
        raise ImageError(f"COPY {value} takes files from another image; without docker there is none.")
    parts = json.loads(value) if value.startswith("[") else value.split()
    *patterns, destination = [part for part in parts if not part.startswith("--")]
    sources = [source for pattern in patterns for source in _matches(context, pattern)]
    target = _inside(root, workdir / destination)
    into_directory = destination.endswith(("/", "/.")) or destination == "." or len(sources) > 1 or target.is_dir()
    for source in sources:
        if source.is_dir():
            _link_tree(source, target)
        else:
            _link(source, target / source.name if into_directory else target)


def _matches(context: Path, pattern: str) -> list[Path]:
    context = context.resolve()
    relative = pattern.lstrip("/")
    if ".." in PurePosixPath(relative).parts:
        raise ImageError(f"COPY {pattern} leaves the build folder.")
    found = [context] if relative in ("", ".", "./") else sorted(context.glob(relative.rstrip("/")))
    if not found:
        raise ImageError(f"COPY {pattern}: no such file in the staged build folder. Add it to the asset's allow-list.")
    return found


def _link_tree(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for child in sorted(source.iterdir()):
        if child.is_dir():
            _link_tree(child, target / child.name)
        else:
            _link(child, target / child.name)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(source)


def _inside(root: Path, path: PurePosixPath) -> Path:
    """The place of an absolute path of the image."""
    if ".." in path.parts:
        raise ImageError(f"The path {path} of the Dockerfile is not plain.")
    return root.joinpath(*path.parts[1:])


def _translated(value: str, root: Path) -> str:
    """An absolute path that the image holds -> its place; anything else as it is."""
    path = PurePosixPath(value)
    if path.is_absolute() and len(path.parts) > 1 and ".." not in path.parts and _inside(root, path).exists():
        return str(_inside(root, path))
    return value


def _environment(env: dict[str, str], root: Path, cwd: Path) -> dict[str, str]:
    translated = {
        name: os.pathsep.join(_translated(part, root) for part in value.split(":"))
        if value.startswith("/") or (":/" in value and "://" not in value)
        else value
        for name, value in env.items()
    }
    if "PATH" in translated:
        translated["PATH"] = os.pathsep.join(p for p in (translated["PATH"], os.environ.get("PATH", "")) if p)
    # `python -m` finds the program in WORKDIR in any case; a script in a sub-directory must find packages there too.
    search_path = [str(cwd), *(part for part in translated.get("PYTHONPATH", "").split(os.pathsep) if part)]
    translated["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(search_path))
    # Byte code must not land beside the links: the staged folder is the input of a real docker build. Not by
    # PYTHONPYCACHEPREFIX: that hides the byte code of the libraries too, and compiling them takes 5 s a start.
    translated["PYTHONDONTWRITEBYTECODE"] = "1"
    return translated
