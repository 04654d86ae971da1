"""Every decision on what a role may do, as a line of JSON: which grants a flow needs, and which it lacked.

Only what the policies of the principal say; what a resource's own policy says of it is left out. It changes nothing.
"""

from __future__ import annotations

import contextvars
import json
import threading
from pathlib import Path
from typing import Any

from ministack.core import iam_evaluator

_of_a_resource = contextvars.ContextVar("of_a_resource", default=False)


def install(file: Path) -> None:
    evaluate_stock, evaluate_resource_stock = iam_evaluator.evaluate, iam_evaluator.evaluate_resource_policy
    lock = threading.Lock()

    def evaluate(ctx: Any, policies: Any, *limits: Any) -> Any:
        result = evaluate_stock(ctx, policies, *limits)
        if not _of_a_resource.get():
            decision = {
                "principal": ctx.principal_arn,
                "action": ctx.action,
                "resource": ctx.resource_arn,
                "allowed": result.decision == "Allow",
            }
            with lock, file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(decision) + "\n")
        return result

    def evaluate_resource(*args: Any, **kwargs: Any) -> Any:
        token = _of_a_resource.set(True)
        try:
            return evaluate_resource_stock(*args, **kwargs)
        finally:
            _of_a_resource.reset(token)

    iam_evaluator.evaluate, iam_evaluator.evaluate_resource_policy = evaluate, evaluate_resource
