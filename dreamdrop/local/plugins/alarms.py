"""CloudWatch: an alarm is described and deleted by whoever may do so with that alarm.

Wart: with AUTH=true MiniStack asks the policies about all alarms, so that one which names its alarms denies. The first
alarm of a request speaks for all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ministack.core import iam_actions


def install() -> None:
    extract_stock = iam_actions.extract_resource_arn

    def extract(
        service: str,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        query_params: Any,
        region: str,
        account_id: str,
    ) -> str:
        if service == "monitoring" and headers.get("x-amz-target", "").endswith((".DeleteAlarms", ".DescribeAlarms")):
            names = json.loads(body or b"{}").get("AlarmNames")
            if names:
                return f"arn:aws:cloudwatch:{region}:{account_id}:alarm:{names[0]}"
        return str(extract_stock(service, method, path, headers, body, query_params, region, account_id))

    iam_actions.extract_resource_arn = extract
