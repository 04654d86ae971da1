"""The List operations: filters, order and pages, the same for jobs, models, configurations and endpoints."""

from __future__ import annotations

from typing import Any

from botocore.utils import parse_timestamp

from dreamdrop.local.sagemaker.errors import invalid
from dreamdrop.local.sagemaker.store import Record

DEFAULT_PAGE = 100


def page(
    records: list[Record], body: dict[str, Any], kind: str, *, descending: bool, summary: tuple[str, ...]
) -> tuple[list[Record], dict[str, str]]:
    """Returns the summaries of one page and {"NextToken": ...} if there is another.

    `kind` is the stem of the members' names: <kind>Name, <kind>Status. Raises SageMakerError for a bad NextToken.
    """
    name, status = f"{kind}Name", f"{kind}Status"
    found = [record for record in records if _matches(record, body, name, status)]
    sort_key = {"Name": name, "Status": status}.get(body.get("SortBy", ""), "CreationTime")
    order = body.get("SortOrder")
    found.sort(key=lambda r: (r[sort_key], r[name]), reverse=order == "Descending" if order else descending)
    token = body.get("NextToken", "0")
    if not token.isdecimal():
        raise invalid("The NextToken is not one of ours.")
    start, size = int(token), body.get("MaxResults", DEFAULT_PAGE)
    more = {"NextToken": str(start + size)} if start + size < len(found) else {}
    return [{k: r[k] for k in summary if k in r} for r in found[start : start + size]], more


def _matches(record: Record, body: dict[str, Any], name: str, status: str) -> bool:
    if body.get("NameContains", "").lower() not in record[name].lower():
        return False
    if "StatusEquals" in body and record[status] != body["StatusEquals"]:
        return False
    for member in ("CreationTime", "LastModifiedTime"):
        after, before = body.get(f"{member}After"), body.get(f"{member}Before")
        if after is not None and record[member] < parse_timestamp(after).timestamp():
            return False
        if before is not None and record[member] > parse_timestamp(before).timestamp():
            return False
    return True
