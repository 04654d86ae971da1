"""CloudWatch, as far as scaling looks at it: one datapoint a minute, metric math, and the state of an alarm.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html, alarm-evaluation.html and
alarms-and-missing-data.html
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

MINUTE = 60
State = Literal["OK", "ALARM", "INSUFFICIENT_DATA"]
Key = tuple[str, str, frozenset[tuple[str, str]]]
Series = Callable[[int], float | None]
"""The datapoint of a minute, None where there is none."""

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanOrEqualToThreshold": operator.ge,
    "GreaterThanThreshold": operator.gt,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}
_OPERATORS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Eq: operator.eq,
}  # fmt: skip


def key_of(metric: Mapping[str, Any]) -> Key:
    """A metric is its namespace, its name and its dimensions: with other dimensions it is another metric."""
    dimensions = frozenset((d["Name"], d["Value"]) for d in metric.get("Dimensions", ()))
    return metric["Namespace"], metric["MetricName"], dimensions


class Metrics:
    """What was published, and from when on it can be read."""

    def __init__(self, delay_seconds: int) -> None:
        self._delay = delay_seconds
        self._points: dict[Key, dict[int, float]] = {}

    def put(self, key: Key, minute: int, value: float) -> None:
        self._points.setdefault(key, {})[minute] = value

    def newest_minute(self, now: int) -> int:
        return (now - self._delay) // MINUTE - 1

    def series(self, specification: Mapping[str, Any]) -> Series:
        """Of a metric, of an alarm's request, or of a CustomizedMetricSpecification with or without metric math."""
        if "Metrics" in specification:
            return self._calculated(specification["Metrics"])
        return self._points.setdefault(key_of(specification), {}).get

    def _calculated(self, queries: Sequence[Mapping[str, Any]]) -> Series:
        found: dict[str, Series] = {}
        for query in queries:  # an expression may name those before it
            if "Expression" in query:
                found[query["Id"]] = _expression(query["Expression"], dict(found))
            else:
                found[query["Id"]] = self.series(query["MetricStat"]["Metric"])
        (returned,) = [query["Id"] for query in queries if query.get("ReturnData", True)]
        return found[returned]


# ---- metric math


@dataclass(frozen=True)
class _Operand:
    value: float | None
    is_series: bool


_Compiled = Callable[[int], _Operand]


def _expression(text: str, series: Mapping[str, Series]) -> Series:
    compiled = _compiled(ast.parse(text, mode="eval").body, series)

    @functools.cache  # a minute is read only once it is published, but by every alarm again and again
    def value(minute: int) -> float | None:
        return compiled(minute).value

    return value


def _compiled(node: ast.expr, series: Mapping[str, Series]) -> _Compiled:
    """The part of metric math that our policies use: names, numbers, one comparison, IF."""
    match node:
        case ast.Constant(value=int() | float() as number):
            scalar = _Operand(float(number), is_series=False)
            return lambda minute: scalar
        case ast.Name(id=name):
            read = series[name]
            return lambda minute: _Operand(read(minute), is_series=True)
        case ast.Compare(left=left, ops=[comparison], comparators=[right]):
            compare, one, other = _OPERATORS[type(comparison)], _compiled(left, series), _compiled(right, series)
            return lambda minute: _compared(compare, one(minute), other(minute))
        case ast.Call(func=ast.Name(id="IF"), args=[_, _, _] as arguments):
            parts = [_compiled(argument, series) for argument in arguments]
            return lambda minute: _chosen(*(part(minute) for part in parts))
    raise ValueError(f"{ast.unparse(node)} is not modelled.")


def _compared(compare: Callable[[float, float], bool], left: _Operand, right: _Operand) -> _Operand:
    """Between two series, a datapoint that only one of them lacks counts as 0."""
    if left.value is None and right.value is None:
        return _Operand(None, is_series=True)
    if not (left.is_series and right.is_series) and None in (left.value, right.value):
        return _Operand(None, is_series=True)
    return _Operand(float(compare(left.value or 0.0, right.value or 0.0)), left.is_series or right.is_series)


def _chosen(condition: _Operand, then: _Operand, otherwise: _Operand) -> _Operand:
    """A datapoint that the chosen series lacks is 0 where the condition holds, and dropped where it does not."""
    if condition.value is None:
        return _Operand(None, is_series=True)
    if condition.value:
        return _Operand(then.value or 0.0, is_series=True)
    return _Operand(otherwise.value, is_series=True)


# ---- alarms


@dataclass(frozen=True, kw_only=True)
class Alarm:
    series: Series
    comparison: str
    threshold: float
    periods: int
    datapoints: int
    missing: str = "missing"

    @classmethod
    def of(cls, request: Mapping[str, Any], metrics: Metrics) -> Alarm:
        if request["Period"] != MINUTE:
            raise ValueError("Only periods of one minute are modelled.")
        return cls(
            series=metrics.series(request),
            comparison=request["ComparisonOperator"],
            threshold=request["Threshold"],
            periods=request["EvaluationPeriods"],
            datapoints=request.get("DatapointsToAlarm", request["EvaluationPeriods"]),
            missing=request.get("TreatMissingData", "missing"),
        )

    def breaches(self, value: float) -> bool:
        return _COMPARISONS[self.comparison](value, self.threshold)

    def state(self, newest_minute: int, extra_datapoints: int, before: State) -> State:
        """More datapoints than periods are looked at, so that a late one does not matter."""
        points = [self.series(newest_minute - age) for age in range(self.periods + extra_datapoints)]
        return self.state_of(points, before)

    def state_of(self, points: Sequence[float | None], before: State) -> State:
        """The newest comes first."""
        ages = [age for age, value in enumerate(points) if value is not None]
        known = [self.breaches(value) for value in points if value is not None][: self.periods]
        if len(known) < self.periods:
            absent = self.periods - len(known)
            if self.missing == "breaching":
                known += [True] * absent
            elif self.missing == "notBreaching":
                known += [False] * absent
            elif not known:
                return before if self.missing == "ignore" else "INSUFFICIENT_DATA"
            elif all(known) and len(known) < self.datapoints:
                # Kept from alarming early: the oldest must be older than all that are needed.
                if ages[-1] < self.datapoints:
                    return before if self.missing == "ignore" else "INSUFFICIENT_DATA"
                return "ALARM"
        return "ALARM" if sum(known) >= self.datapoints else "OK"
