"""What can be said of the two images without building them: their Dockerfiles, requirements and lock files."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
CONTAINERS = ("training_container", "inference_container")
SETS = ("gpu", "cpu")
BASE_IMAGE = re.compile(r"BASE_IMAGE=python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}")
IGNORED_OR_HARMFUL = {"USER", "HEALTHCHECK", "SHELL", "ONBUILD", "VOLUME", "ADD"}  # on SageMaker


def instructions(container: str) -> dict[str, list[str]]:
    with (ROOT / container / "Dockerfile").open("rb") as file:
        parsed = DockerfileParser(fileobj=file).structure
    grouped: dict[str, list[str]] = {}
    for line in parsed:
        grouped.setdefault(line["instruction"], []).append(line["value"])
    return grouped


def requirements(file: Path) -> dict[str, str]:
    """Name -> version, of a file and of those that it includes."""
    found: dict[str, str] = {}
    for line in file.read_text().splitlines():
        if line.startswith("-r "):
            found |= requirements(file.parent / line.removeprefix("-r "))
        elif line and not line.startswith("#"):
            name, version = line.split("==")
            found[name] = version
    return found


def project_pins() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [*project["dependencies"], *project["optional-dependencies"]["containers"]]
    return dict(pin.split("==") for pin in pins)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_dockerfile_follows_the_contract_of_its_container(container: str) -> None:
    found = instructions(container)
    assert found["ENTRYPOINT"] == [f'["python", "-m", "{container}"]']
    assert not IGNORED_OR_HARMFUL & set(found)
    assert "/opt/ml" not in (ROOT / container / "Dockerfile").read_text()
    base, *others = found["ARG"]
    assert BASE_IMAGE.fullmatch(base)
    assert others == ["PACKAGES=gpu", "PIP_EXTRA_INDEX_URL"]
    assert not re.search(r"apt-get|apk |dnf |curl |wget ", " ".join(found["RUN"]))


def test_both_images_have_the_same_base() -> None:
    assert len({instructions(container)["ARG"][0] for container in CONTAINERS}) == 1


def test_the_serving_image_says_where_it_listens() -> None:
    found = instructions("inference_container")
    assert found["CMD"] == ['["serve"]']
    assert found["EXPOSE"] == ["8080"]
    assert found["LABEL"] == ["com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true"]


@pytest.mark.parametrize("packages", SETS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_lock_file_agrees_with_its_requirements(container: str, packages: str) -> None:
    """Run `make lock` after a change of requirements."""
    wanted = requirements(ROOT / container / f"requirements-{packages}.txt")
    text = (ROOT / container / f"requirements-{packages}.lock").read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    locked = dict(entry.split(" ", 1)[0].split("==") for entry in entries)
    direct = {entry.split("==")[0] for entry in entries if "-r " in entry}
    assert {name: locked.get(name) for name in wanted} == wanted
    assert direct == set(wanted)


@pytest.mark.parametrize("packages", SETS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_lock_file_holds_names_versions_and_hashes_only(container: str, packages: str) -> None:
    """No index, no address, no folder: where packages come from is the builder's affair."""
    lines = (ROOT / container / f"requirements-{packages}.lock").read_text().splitlines()
    allowed = re.compile(r"#.*|[a-z0-9-]+==[^ ]+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?|    #( .*)?")
    assert [line for line in lines if not allowed.fullmatch(line)] == []
    assert not [line for line in lines if "://" in line]
    pinned = [number for number, line in enumerate(lines) if "==" in line and not line.startswith(("#", " "))]
    assert pinned
    assert all("--hash=sha256:" in lines[number + 1] for number in pinned)


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_packages_are_those_of_the_tests(container: str) -> None:
    wanted = requirements(ROOT / container / "requirements-cpu.txt")
    project = project_pins()
    assert {name: project.get(name) for name in wanted} == {**wanted, "torch": wanted["torch"].removesuffix("+cpu")}


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_gpu_set_differs_in_torch_and_what_needs_a_gpu_only(container: str) -> None:
    gpu, cpu = (requirements(ROOT / container / f"requirements-{packages}.txt") for packages in SETS)
    assert {name for name in gpu | cpu if gpu.get(name) != cpu.get(name)} <= {"torch", "xformers", "bitsandbytes"}
