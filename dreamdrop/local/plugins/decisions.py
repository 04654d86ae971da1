"""Every decision on what a role may do, as a line of JSON: which grants a flow needs, and which it lacked.

MiniStack's evaluator has one door, which is wrapped; it changes nothing.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from ministack.core import iam_evaluator


def install(file: Path) -> None:
    evaluate_stock = iam_evaluator.evaluate
    lock = threading.Lock()

    def evaluate(ctx: Any, policies: Any, *limits: Any) -> Any:
        result = evaluate_stock(ctx, policies, *limits)
        decision = {
            "principal": ctx.principal_arn,
            "action": ctx.action,
            "resource": ctx.resource_arn,
            "allowed": result.decision == "Allow",
        }
        with lock, file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(decision) + "\n")
        return result

    iam_evaluator.evaluate = evaluate
