"""docs/costs.md: what it shows is what the price table gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import costs
from contracts import metrics
from lambdas.domain import pricing

PAGE = Path(__file__).resolve().parents[2] / costs.PAGE


def test_the_page_shows_what_the_prices_give() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert costs.with_tables(page) == page, "make costs"


def test_another_price_changes_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGE.read_text(encoding="utf-8")
    gpu, hourly = pricing.INSTANCES["ml.g5.xlarge"]
    monkeypatch.setitem(pricing.INSTANCES, "ml.g5.xlarge", (gpu, 2 * hourly))
    assert costs.with_tables(page) != page


@pytest.mark.parametrize("lines", [costs.at_rest(), costs.of_use()])
def test_the_lines_of_a_bill_add_up(lines: list[costs.Line]) -> None:
    shown = costs._bill(lines)
    *parts, total = re.findall(r"\| \**([0-9.]+)\** \|$", shown, re.MULTILINE)
    assert sum(map(float, parts)) == pytest.approx(float(total), abs=0.005 * len(parts))
    assert float(total) > 0


def test_every_metric_of_our_own_is_counted() -> None:
    assert len([name for name in dir(metrics) if name.isupper()]) == costs.OWN_METRICS


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        costs.with_tables("# Costs")
