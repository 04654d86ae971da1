"""Who may import whom: contracts from everywhere, the networks from where they run; nothing else across the folders."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "contracts",
    "diffusion",
    "infra",
    "lambdas",
    "training_container",
    "inference_container",
    "dreamdrop",
    "toyworld",
)
MAY_DRAW = ("training_container", "inference_container", "toyworld")  # and so may import the networks
INSIDE_LAMBDAS = {"domain": {"domain"}, "adapters": {"adapters", "domain"}}


def imports_of(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_no_arrow_but_towards_contracts_and_the_networks(package: str) -> None:
    allowed = {package, "contracts"} | ({"diffusion"} if package in MAY_DRAW else set())
    assert files_of(package)
    for file in files_of(package):
        for imported in imports_of(file):
            top = imported.partition(".")[0]
            assert top not in PACKAGES or top in allowed, f"{file} imports {imported}"


def test_contracts_stand_alone() -> None:
    for file in files_of("contracts"):
        for imported in imports_of(file):
            top = imported.partition(".")[0]
            assert top not in ("boto3", "botocore", "os", "socket", "requests"), f"{file} imports {imported}"


@pytest.mark.parametrize("layer", INSIDE_LAMBDAS)
def test_layers_inside_lambdas(layer: str) -> None:
    for file in files_of(f"lambdas/{layer}"):
        for imported in imports_of(file):
            if imported.startswith("lambdas."):
                assert imported.split(".")[1] in INSIDE_LAMBDAS[layer], f"{file} imports {imported}"


def test_the_domain_is_pure() -> None:
    for file in files_of("lambdas/domain"):
        for imported in imports_of(file):
            forbidden = ("boto3", "botocore", "os", "aws_lambda_powertools")
            assert imported.partition(".")[0] not in forbidden, f"{file} imports {imported}"


def test_only_the_adapters_talk_to_aws() -> None:
    for file in files_of("lambdas"):
        if "adapters" not in file.parts:
            assert "boto3" not in {imported.partition(".")[0] for imported in imports_of(file)}, file


def test_no_code_of_the_product_knows_local_mode() -> None:
    for package in ("lambdas", "training_container", "inference_container"):
        for file in files_of(package):
            text = file.read_text().lower()
            assert "ministack" not in text, file
            assert "localhost" not in text, file


@pytest.mark.parametrize("package", PACKAGES)
def test_files_stay_readable(package: str) -> None:
    for file in files_of(package):
        assert len(file.read_text().splitlines()) <= 500, f"{file} is too long"
