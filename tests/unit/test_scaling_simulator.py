"""tests/simulation: CloudWatch's own tables of examples, and the arithmetic of the scaling service."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from tests.simulation import arrivals
from tests.simulation.cloudwatch import Alarm, Metrics, State, key_of
from tests.simulation.scaling import HOUR, Request, ideal_hours, ideal_wait, stepped

POINTS = {"0": 0.0, "X": 1.0, "-": None}


def alarm(missing: str, periods: int, datapoints: int) -> Alarm:
    return Alarm(
        series=lambda minute: None, comparison="GreaterThanOrEqualToThreshold", threshold=1,
        periods=periods, datapoints=datapoints, missing=missing,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("datapoints", "points", "missing", "ignore", "breaching", "not_breaching"),
    [  # "How alarm state is evaluated when data is missing": three periods, then two of three; the oldest comes first
        (3, "0-X-X", "OK", "OK", "OK", "OK"),
        (3, "-----", "INSUFFICIENT_DATA", "before", "ALARM", "OK"),
        (3, "0XX-X", "ALARM", "ALARM", "ALARM", "ALARM"),
        (3, "----X", "INSUFFICIENT_DATA", "before", "ALARM", "OK"),
        (2, "0-X-X", "ALARM", "ALARM", "ALARM", "ALARM"),
        (2, "00X0X", "ALARM", "ALARM", "ALARM", "ALARM"),
        (2, "0-X--", "OK", "OK", "ALARM", "OK"),
        (2, "----0", "OK", "OK", "ALARM", "OK"),
        (2, "----X", "INSUFFICIENT_DATA", "before", "ALARM", "OK"),
    ],
)
def test_alarms_treat_missing_data_as_documented(
    datapoints: int, points: str, missing: str, ignore: str, breaching: str, not_breaching: str
) -> None:
    newest_first = [POINTS[point] for point in reversed(points)]
    before: State = "OK"
    for treatment, expected in (
        ("missing", missing), ("ignore", ignore), ("breaching", breaching), ("notBreaching", not_breaching),
    ):  # fmt: skip
        state = alarm(treatment, 3, datapoints).state_of(newest_first, before)
        assert state == (before if expected == "before" else expected), treatment


def test_an_alarm_stays_on_for_a_while_after_its_metric_has_ended() -> None:
    """ "When the oldest available breaching datapoint is at least as old as Datapoints to Alarm" """
    assert alarm("missing", 3, 3).state_of([None, None, None, None, 1.0], "ALARM") == "ALARM"


def math_on(series: dict[str, str], expression: str) -> list[float | None]:
    metrics = Metrics(delay_seconds=0)
    queries: list[dict[str, Any]] = []
    for name, values in series.items():
        metric = {"Namespace": "N", "MetricName": name}
        queries.append({"Id": name, "MetricStat": {"Metric": metric, "Stat": "Average"}, "ReturnData": False})
        for minute, value in enumerate(values.split()):
            if value != "-":
                metrics.put(key_of(metric), minute, float(value))
    queries.append({"Id": "e", "Expression": expression, "ReturnData": True})
    read = metrics.series({"Metrics": queries})
    return [read(minute) for minute in range(5)]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [  # "Using IF expressions", and "Comparison and logical operators"
        ("IF(m1, m2, m3)", [30, 0, 20, None, None]),
        ("IF(m1, 5, m3)", [5, 5, 20, None, None]),
        ("IF(m1, m2, 5)", [30, 0, 5, 5, None]),
        ("m1 < m2", [1, 0, 0, 0, 1]),
        ("m2 >= 30", [1, None, 0, 0, 1]),
    ],
)
def test_metric_math_is_evaluated_as_documented(expression: str, expected: list[float | None]) -> None:
    series = {"m1": "1 1 0 0 -", "m2": "30 - 0 0 30", "m3": "0 0 20 - 20"}
    assert math_on(series, expression) == expected


def test_what_is_not_modelled_is_refused() -> None:
    with pytest.raises(ValueError, match="not modelled"):
        math_on({"m1": "1"}, "FILL(m1, 0)")


def test_steps() -> None:
    adjustments = [
        {"MetricIntervalLowerBound": 0, "MetricIntervalUpperBound": 10, "ScalingAdjustment": 1},
        {"MetricIntervalLowerBound": 10, "ScalingAdjustment": 3},
    ]
    more = {"AdjustmentType": "ChangeInCapacity", "StepAdjustments": adjustments}
    exact = {**more, "AdjustmentType": "ExactCapacity"}
    assert [stepped(more, over, current=2) for over in (-1, 0, 9, 10)] == [2, 3, 3, 5]
    assert [stepped(exact, over, current=2) for over in (-1, 0, 9, 10)] == [2, 1, 1, 3]


def test_an_instance_that_is_always_there() -> None:
    apart = (Request(0, 360), Request(HOUR, 360))
    assert ideal_hours(apart, concurrency=8) == 0.2
    assert ideal_wait(apart, concurrency=8) == 0
    together = (Request(0, 60),) * 16
    assert ideal_hours(together, concurrency=8) == 120 / HOUR
    assert ideal_wait(together, concurrency=8) == 60


def test_a_seed_gives_one_trace_and_its_arrivals_are_in_order() -> None:
    trace = arrivals.generated(3)
    assert trace == arrivals.generated(3) != arrivals.generated(4)
    assert all(one.arrival <= other.arrival for one, other in pairwise(trace.requests))
