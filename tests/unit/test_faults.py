"""dreamdrop/local/faults.py: which call goes wrong."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from dreamdrop.local.faults import Call, Fault, Faults


def call(action: str = "dynamodb:UpdateItem", caller: str = "HostModel", text: str = "subject rex") -> Call:
    return Call(action, caller, text)


def test_so_many_pass_then_so_many_go_wrong_then_all_pass() -> None:
    faults = Faults()
    faults.add([Fault(kind="throttled", skip=1, times=2)])
    met = [faults.meet(call()) for _ in range(5)]
    assert [fault.kind if fault else None for fault in met] == [None, "throttled", "throttled", None, None]
    [known] = faults.known()
    assert (known.met, known.happened) == (5, 2)


@pytest.mark.parametrize(
    ("fault", "meant"),
    [
        (Fault(kind="error"), True),
        (Fault(kind="error", action="dynamodb:*"), True),
        (Fault(kind="error", action="s3:*"), False),
        (Fault(kind="error", caller="*Host*"), True),
        (Fault(kind="error", caller=""), False),
        (Fault(kind="error", about=["rex"]), True),
        (Fault(kind="error", about=["rex", "tom"]), False),
    ],
)
def test_a_fault_is_about_actions_callers_and_what_the_request_says(fault: Fault, meant: bool) -> None:
    faults = Faults()
    faults.add([fault])
    assert (faults.meet(call()) is not None) == meant
    assert faults.known()[0].met == int(meant)


def test_of_several_faults_the_first_whose_turn_it_is_happens() -> None:
    faults = Faults()
    faults.add([Fault(kind="seen", times=9), Fault(kind="error"), Fault(kind="throttled", skip=1)])
    met = [faults.meet(call()) for _ in range(3)]
    assert [fault.kind if fault else None for fault in met] == ["error", "throttled", None]
    assert [known.met for known in faults.known()] == [3, 3, 3]
    faults.clear()
    assert faults.known() == []


def test_a_misspelt_fault_is_refused() -> None:
    with pytest.raises(ValidationError, match="kind"):
        Fault.model_validate({"kind": "thunder"})
    with pytest.raises(ValidationError, match="acton"):
        Fault.model_validate({"kind": "error", "acton": "s3:*"})
