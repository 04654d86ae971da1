from __future__ import annotations

from contracts.training import Hyperparameters
from tests.hyperparameters_page import PAGE, render
from tests.synthesized import PROJECT


def test_the_page_of_hyperparameters_is_what_the_contract_says() -> None:
    text = (PROJECT / PAGE).read_text(encoding="utf-8")
    assert text == render(), "write it anew: make hyperparameters"
    assert all(f"| `{name}` |" in text for name in Hyperparameters.model_fields)
