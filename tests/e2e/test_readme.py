"""Every command block of the README is run, in order, in a copy of the project."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from contracts.training import DatasetInfo
from dreamdrop.local import process
from dreamdrop.up import free_port
from tests.synthesized import PROJECT

pytestmark = pytest.mark.e2e

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall((PROJECT / "README.md").read_text())
COMMANDS = [body for language, body in BLOCKS if language == "sh"]
STATE_OF_THE_USER = {".local", "out", "cdk.out", "build", ".git"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project by links, so that nothing of what its user keeps there is touched; its own installation."""
    folder = tmp_path_factory.mktemp("checkout")
    for entry in PROJECT.iterdir():
        if entry.name not in STATE_OF_THE_USER | {".venv"}:
            (folder / entry.name).symlink_to(entry)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    newest = max(path.stat().st_mtime for path in (PROJECT / "pyproject.toml", PROJECT / "package.json"))
    for stamp in (".run", ".dev"):
        (folder / ".venv" / stamp).touch()
        os.utime(folder / ".venv" / stamp, (newest + 10, newest + 10))
    return folder


def sh(script: str, folder: Path, port: int) -> str:
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    environment = {**outside, "DREAMDROP_PORT": str(port), "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        ["sh", "-e", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def block(first_line: str) -> str:
    (found,) = [body for body in COMMANDS if body.splitlines()[0] == first_line]
    return found


def test_the_first_command_stands_near_the_top() -> None:
    lines = (PROJECT / "README.md").read_text().splitlines()
    assert lines.index("make demo") < 15


def test_no_command_block_is_left_out_here() -> None:
    assert {body.splitlines()[0] for body in COMMANDS} == {"make demo", "make up", "make deploy", "make test"}


def test_make_demo(checkout: Path) -> None:
    said = sh(block("make demo"), checkout, free_port(0))
    report = (checkout / "out/demo/report.html").read_text()
    assert report.count("data:image/") >= 9  # five photos and four pictures, inside the page
    assert "src=" not in report.replace('src="data:', "")
    with Image.open(checkout / "out/demo/grid.png") as grid:
        assert grid.width > 800
    assert len(list((checkout / "out/demo/pictures").glob("*.png"))) == 4
    for stage in ("taken", "checking", "planning", "training", "judging", "publishing", "hosting", "ready"):
        assert re.search(rf"^\d+\. {stage}", said, re.MULTILINE), said


def test_make_up_drop_generate_down(checkout: Path) -> None:
    try:
        said = sh(block("make up"), checkout, free_port(0))
    finally:
        process.down(checkout / ".local")
    assert "aws s3 cp" in said
    assert len(list((checkout / "out").glob("robot-*.png"))) == 2


def test_make_test_is_this_test_suite(checkout: Path) -> None:
    planned = sh("make -n test", checkout, 0)
    assert planned.strip() == ".venv/bin/python -m pytest -n 2 --dist loadfile"


def test_make_deploy_is_the_stock_command_line(checkout: Path) -> None:
    """Run for real, against the local cloud, by tests/e2e/test_stock_cdk.py."""
    assert block("make deploy").strip() == "make deploy"
    planned = sh("make -n deploy", checkout, 0)
    assert "npx cdk deploy --all -c environment=sandbox -c prefix=dreamdrop" in planned


def test_the_example_dataset_info_is_valid() -> None:
    (example,) = [body for language, body in BLOCKS if language == "json"]
    assert DatasetInfo.parse(example.encode()).hyperparameters.max_steps == 400
