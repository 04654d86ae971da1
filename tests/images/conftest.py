"""The images, built once a session from what the CDK stages for `docker build`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.images import machine
from tests.images.base_image import BASE_IMAGE, make_base_image
from tests.images.store import Store

BUILD_ARGUMENTS = {"BASE_IMAGE": BASE_IMAGE, "PACKAGES": "cpu"}
REPORT = pytest.StashKey[list[str]]()


@dataclass(frozen=True)
class StagedImage:
    """What `cdk deploy` hands to docker."""

    context: Path
    dockerfile: str
    tag: str


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[REPORT]:
        terminalreporter.section("images")
        for line in config.stash[REPORT]:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> list[str]:
    """Lines that are printed after the tests."""
    return pytestconfig.stash[REPORT]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """With the base image in it. IMAGE_STORE names a folder whose images are kept for the next session."""
    if (obstacle := machine.obstacle()) is not None:
        (pytest.fail if os.environ.get("REQUIRE_IMAGES") else pytest.skip)(f"{obstacle}.")
    if missing := machine.missing_tools():
        pytest.fail(f"Not installed: {', '.join(missing)}. Run: apt-get install {' '.join(missing)}", pytrace=False)
    kept = os.environ.get("IMAGE_STORE")
    store = Store(Path(kept) if kept else tmp_path_factory.mktemp("images"))
    try:
        if not store.has(BASE_IMAGE):
            make_base_image(store)
        yield store
    finally:
        if not kept:
            store.remove()


@pytest.fixture(scope="session")
def staged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StagedImage]:
    """By folder of the container."""
    from aws_cdk import App, Stack

    from infra.packaging import inference_image, training_image

    folder = tmp_path_factory.mktemp("cdk.out")
    app = App(outdir=str(folder))
    stack = Stack(app, "images")
    training_image(stack, "training")
    inference_image(stack, "inference")
    app.synth()
    assets = json.loads((folder / "images.assets.json").read_text())["dockerImages"]
    sources = {tag: asset["source"] for tag, asset in assets.items()}
    return {
        Path(source["dockerFile"]).parts[0]: StagedImage(folder / source["directory"], source["dockerFile"], tag)
        for tag, source in sources.items()
    }


@pytest.fixture(scope="session")
def images(store: Store, staged: dict[str, StagedImage], report: list[str]) -> dict[str, str]:
    """Folder of the container -> name of its image, with the packages for a machine without a GPU."""
    with ThreadPoolExecutor() as pool:
        names = pool.map(lambda image: _built(store, image, report), staged.values())
        return dict(zip(staged, names, strict=True))


def _built(store: Store, image: StagedImage, report: list[str]) -> str:
    name = f"localhost/{Path(image.dockerfile).parts[0]}:{image.tag}"
    if not store.has(name):
        started = time.monotonic()
        folders = machine.package_folders(machine.pip_options())
        store.build(image.context, image.dockerfile, name, arguments=BUILD_ARGUMENTS, mounts=folders)
        report.append(f"{image.dockerfile}: built in {time.monotonic() - started:.0f} s")
    return name
