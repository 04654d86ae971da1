"""The answer that a custom resource owes CloudFormation.

https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/crpg-ref-responses.html
"""

from __future__ import annotations

import json
import urllib.request
from typing import Any

MAX_REASON_CHARACTERS = 1000  # of an answer of at most 4 KB
TIMEOUT_SECONDS = 20


def answer(event: dict[str, Any], physical_id: str, failure: str = "") -> None:
    """Success without a failure. Raises OSError; CloudFormation then waits for an hour."""
    body = {
        "Status": "FAILED" if failure else "SUCCESS",
        "Reason": failure[:MAX_REASON_CHARACTERS] or "done",
        "PhysicalResourceId": event.get("PhysicalResourceId", physical_id),
        **{name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")},
    }
    request = urllib.request.Request(  # noqa: S310  a presigned address that CloudFormation gave
        event["ResponseURL"], json.dumps(body).encode(), {"Content-Type": ""}, method="PUT"
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
        pass
