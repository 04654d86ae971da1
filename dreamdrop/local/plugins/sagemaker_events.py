"""SageMaker's state changes on the default event bus.

Wart: PutEvents refuses sources `aws.*`, as AWS does, without an exception; the in-process call may use them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from ministack.services import eventbridge

from dreamdrop.local.plugins.scope import in_account

log = logging.getLogger(__name__)


def emitter(account: str, region: str) -> Callable[[str, dict[str, Any], list[str]], None]:
    """-> emit(detail_type, detail, resources)"""

    def emit(detail_type: str, detail: dict[str, Any], resources: list[str]) -> None:
        entry = {
            "Source": "aws.sagemaker",
            "DetailType": detail_type,
            "Detail": json.dumps(detail, default=str),
            "Resources": resources,
        }
        _, _, answer = in_account(account, region, eventbridge._put_events, {"Entries": [entry]}, allow_aws_source=True)
        if json.loads(answer).get("FailedEntryCount"):
            log.error("EventBridge refused the event %s: %s", detail_type, answer.decode())

    return emit
