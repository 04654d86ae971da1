"""MetricDefinitions: the last value that each regular expression finds in a job's log."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dreamdrop.local.sagemaker.errors import invalid


def check_definitions(definitions: list[dict[str, str]]) -> None:
    """Raises SageMakerError for an expression that does not compile or captures nothing."""
    for definition in definitions:
        try:
            groups = re.compile(definition["Regex"]).groups
        except re.error as error:
            raise invalid(f"The Regex of metric {definition['Name']} is not valid: {error}.") from error
        if not groups:
            raise invalid(f"The Regex of metric {definition['Name']} captures no value.")


def final_metrics(definitions: list[dict[str, str]], log: Path) -> list[dict[str, Any]]:
    """FinalMetricDataList of DescribeTrainingJob, with the time of the log's last change."""
    if not definitions or not log.exists():
        return []
    expressions = {definition["Name"]: re.compile(definition["Regex"]) for definition in definitions}
    values: dict[str, float] = {}
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            for name, expression in expressions.items():
                found = expression.search(line)
                number = _number(found[1]) if found else None
                if number is not None:
                    values[name] = number
    timestamp = log.stat().st_mtime
    return [{"MetricName": name, "Value": value, "Timestamp": timestamp} for name, value in values.items()]


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
