"""A secret that is committed is found before it is pushed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.secret_scan import main, scan

# In parts, so that this file holds none of them.
PLANTED = {
    "AWS Access Key": "aws_access_key_id = AKIA" + "QWERTYUIOPASDFGH",
    "GitHub Token": "token: ghp_" + "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx",
    "Private Key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "Secret Keyword": "password = " + '"correct-horse-battery"',
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    return tmp_path


def plant(checkout: Path, name: str, content: str, *, kept: bool = True) -> None:
    (checkout / name).write_text(f"first line\n{content}\n")
    if kept:
        subprocess.run(["git", "add", name], cwd=checkout, check=True)


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_secret_is_found(checkout: Path, kind: str) -> None:
    plant(checkout, "settings.py", PLANTED[kind])
    assert ("settings.py", 2, kind) in [(one.file, one.line, one.kind) for one in scan(checkout)]


def test_what_git_does_not_keep_is_left_alone_and_a_checksum_is_no_secret(checkout: Path) -> None:
    plant(checkout, "notes.txt", PLANTED["AWS Access Key"], kept=False)
    plant(checkout, "sums.json", '{"sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}')
    assert scan(checkout) == []


def test_the_command_names_the_place_and_not_the_secret(checkout: Path) -> None:
    plant(checkout, "settings.py", PLANTED["AWS Access Key"])
    command = [sys.executable, "-m", "tests.secret_scan", str(checkout)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "settings.py:2: AWS Access Key" in answer.stderr
    assert "QWERTYUIOP" not in answer.stderr


def test_what_is_excused_passes_and_an_excuse_that_nothing_needs_does_not(checkout: Path) -> None:
    plant(checkout, "settings.py", PLANTED["Secret Keyword"])
    [found] = scan(checkout)
    excuse = {(found.file, found.value): "as a test"}
    main(checkout, excuse)
    with pytest.raises(SystemExit, match=r"not there any more.*other\.py"):
        main(checkout, {**excuse, ("other.py", "gone"): "as a test"})
