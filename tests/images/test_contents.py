"""What is in the two images, and what is not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.images import machine
from tests.images.base_image import BASE_IMAGE
from tests.images.conftest import BUILD_ARGUMENTS, StagedImage
from tests.images.store import BuildError, Store
from tests.images.wheels import Wheel, locked_wheels, pins

pytestmark = pytest.mark.oci

ROOT = Path(__file__).parents[2]
CONTAINERS = ("training_container", "inference_container")
COMPILERS = re.compile(r"(.+-)?(gcc|g\+\+|cc|c\+\+|clang|clang\+\+|cpp|as|ld|make)(-[\d.]+)?")
MEGABYTE = 10**6


@pytest.fixture(params=CONTAINERS)
def container(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def image(container: str, images: dict[str, str]) -> str:
    return images[container]


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def size_of(folder: Path) -> int:
    counted = subprocess.run(["du", "-sb", str(folder)], check=True, text=True, capture_output=True).stdout
    return int(counted.split()[0])


def test_the_program_is_whole_and_alone(container: str, image: str, store: Store, report: list[str]) -> None:
    expected = {
        f"{folder}/{file}"
        for folder in ("contracts", "diffusion", container)
        for file in files_below(ROOT / folder)
        if "__pycache__" not in file
    }
    with store.file_system(image) as root, store.file_system(BASE_IMAGE) as base:
        assert files_below(root / "opt/program") == expected
        assert not (root / "opt/ml").exists()
        assert not (root / "packages").exists()
        whole, below = size_of(root), size_of(base)
    report.append(f"{container}, cpu: {whole / MEGABYTE:.0f} MB, of which the base is {below / MEGABYTE:.0f} MB")


def test_it_has_no_compiler(image: str, store: Store) -> None:
    with store.file_system(image) as root:
        folders = [root / name for name in ("usr/bin", "usr/local/bin", "usr/sbin", "opt")]
        programs = [path for folder in folders for path in folder.rglob("*") if path.is_file() or path.is_symlink()]
        assert len(programs) > 100
        assert [str(path) for path in programs if COMPILERS.fullmatch(path.name)] == []


def test_its_packages_are_the_locked_ones(container: str, image: str, store: Store) -> None:
    """And all that they need: `pip check` is part of the build."""
    locked = pins(ROOT / container / "requirements-cpu.lock")
    with store.file_system(image) as root:
        (folder,) = root.glob("usr/local/lib/python3.*/dist-packages")
        installed = {package.name: package.version for package in distributions(path=[str(folder)])}
    assert {re.sub("[-_.]+", "-", name).lower(): version for name, version in installed.items()} == locked


def test_its_configuration_is_what_sagemaker_expects(container: str, image: str, store: Store) -> None:
    config = store.config(image)
    assert config["Entrypoint"] == ["python", "-m", container]
    assert config["WorkingDir"] == "/opt/program"
    assert config.get("User", "") == ""
    serves = container == "inference_container"
    assert config.get("Cmd") == (["serve"] if serves else None)
    assert ("8080/tcp" in config.get("ExposedPorts", {})) is serves
    port_label = config.get("Labels", {}).get("com.amazonaws.sagemaker.capabilities.accept-bind-to-port")
    assert port_label == ("true" if serves else None)


def lock_only(name: str, context: Path, container: str) -> Path:
    """Leaves one package in a lock file: what is built from it takes a second."""
    lock = context / container / "requirements-cpu.lock"
    (entry,) = re.findall(rf"^{name}==(?:.*\\\n)+.*\n", lock.read_text(), re.MULTILINE)
    lock.write_text(entry)
    return lock


@pytest.fixture
def build_changed(store: Store, staged: dict[str, StagedImage], tmp_path: Path) -> Callable[[], None]:
    """Builds the training image from `tmp_path`, where a copy of what the CDK stages can be changed."""
    source = staged["training_container"]
    shutil.copytree(source.context, tmp_path, dirs_exist_ok=True)
    return lambda: store.build(tmp_path, source.dockerfile, "localhost/changed", arguments=BUILD_ARGUMENTS)


def test_a_wheel_that_is_not_the_locked_one_is_refused(build_changed: Callable[[], None], tmp_path: Path) -> None:
    lock = lock_only("mpmath", tmp_path, "training_container")
    lock.write_text(re.sub("sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, lock.read_text()))
    with pytest.raises(BuildError, match="DO NOT MATCH THE HASHES"):
        build_changed()


def test_a_lock_file_without_what_a_package_needs_fails_the_build(
    build_changed: Callable[[], None], tmp_path: Path
) -> None:
    lock_only("jinja2", tmp_path, "training_container")
    with pytest.raises(BuildError, match=r"jinja2 .* requires markupsafe, which is not installed"):
        build_changed()


def test_a_folder_that_is_not_staged_fails_the_build(build_changed: Callable[[], None], tmp_path: Path) -> None:
    lock_only("mpmath", tmp_path, "training_container")
    shutil.rmtree(tmp_path / "contracts")
    with pytest.raises(BuildError, match="contracts"):
        build_changed()


def test_every_wheel_of_the_gpu_set_is_there_under_its_hash(container: str, report: list[str]) -> None:
    lock = ROOT / container / "requirements-gpu.lock"
    wheels = list(locked_wheels(lock))
    assert {wheel.name for wheel in wheels} == set(pins(lock))
    allowed = set(re.findall(r"sha256:([0-9a-f]{64})", lock.read_text()))
    assert [wheel.name for wheel in wheels if wheel.sha256 not in allowed] == []
    with ThreadPoolExecutor(8) as pool:
        sizes = dict(zip((wheel.name for wheel in wheels), pool.map(Wheel.size, wheels), strict=True))
    largest = ", ".join(f"{name} {sizes[name] / MEGABYTE:.0f}" for name in sorted(sizes, key=sizes.__getitem__)[:-5:-1])
    report.append(f"{container}, gpu: {len(sizes)} wheels, {sum(sizes.values()) / MEGABYTE:.0f} MB ({largest})")


def test_locking_again_gives_the_same_packages(tmp_path: Path) -> None:
    """By the documented command: nothing that a package needs is missing, nothing is there that none needs."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for container in CONTAINERS:
        (tmp_path / container).mkdir()
        for file in (ROOT / container).glob("requirements*"):
            shutil.copy(file, tmp_path / container)
    links = " ".join(map(str, machine.package_folders(machine.pip_options())))
    environment = {**os.environ, **({"UV_FIND_LINKS": links} if links else {})}
    venv = Path(sys.prefix)
    locked = subprocess.run(
        ["make", f"--old-file={venv}/.dev", f"VENV={venv}", "lock"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert locked.returncode == 0, locked.stderr
    for lock in [file for container in CONTAINERS for file in (ROOT / container).glob("*.lock")]:
        again = tmp_path / lock.relative_to(ROOT)
        assert pins(again) == pins(lock), lock
