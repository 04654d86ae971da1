"""Which tests run in one process, when several processes share the work (`pytest -n 2`)."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from xdist.scheduler import LoadFileScheduling

# They share what takes long to make: a local cloud, and the templates of every environment.
TOGETHER = ("tests/e2e", "tests/infra")
# These make clouds of their own.
ALONE = ("tests/e2e/test_interrupt.py", "tests/e2e/test_readme.py", "tests/e2e/test_stock_cdk.py")


def group_of(file: str) -> str:
    folder = str(PurePosixPath(file).parent)
    return folder if folder in TOGETHER and file not in ALONE else file


class ByWhatTheyShare(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return group_of(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByWhatTheyShare:
    return ByWhatTheyShare(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: begun last, it would keep one process waiting for the other."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/e2e"))
