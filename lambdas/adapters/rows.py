"""Rows of the table, as every part of it reads and writes them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

import boto3
from boto3.dynamodb.conditions import ConditionBase, Key
from botocore.exceptions import ClientError

from contracts.storage import TableKey
from lambdas.adapters.clients import CONFIG, error_code

SECONDS_A_DAY = 86400


@cache
def table_named(name: str) -> Any:
    return boto3.resource("dynamodb", config=CONFIG).Table(name)


def now_text() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Rows:
    def __init__(self, table_name: str) -> None:
        self._table = table_named(table_name)

    def _get(self, key: TableKey) -> dict[str, Any] | None:
        item: dict[str, Any] | None = self._table.get_item(Key=key._asdict(), ConsistentRead=True).get("Item")
        return item

    def _starting(self, start: TableKey, **more: Any) -> Iterator[dict[str, Any]]:
        """The rows of a partition whose sort keys start so, in their order."""
        condition: ConditionBase = Key("pk").eq(start.pk)
        if start.sk:
            condition &= Key("sk").begins_with(start.sk)
        query: dict[str, Any] = {"KeyConditionExpression": condition, **more}
        while True:
            page = self._table.query(**query)
            yield from page["Items"]
            if "LastEvaluatedKey" not in page:
                return
            query["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def _update(self, key: TableKey, values: dict[str, Any], condition: Any = None, extra: str = "") -> bool:
        """SET of every value; `extra` is one more SET clause over the names #stages and :entry. False if refused."""
        names = {f"#{name}": name for name in values}
        clauses = [f"#{name} = :{name}" for name in values]
        parameters: dict[str, Any] = {
            "Key": key._asdict(),
            "UpdateExpression": "SET " + ", ".join([*clauses, *([extra] if extra else [])]),
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": {f":{name}": value for name, value in values.items()},
        }
        if extra:
            parameters["ExpressionAttributeNames"]["#stages"] = "stages"
            parameters["ExpressionAttributeValues"][":entry"] = [{"stage": values["stage"], "at": values["updated_at"]}]
        if condition is not None:
            parameters["ConditionExpression"] = condition
        try:
            self._table.update_item(**parameters)
        except ClientError as error:
            if error_code(error) == "ConditionalCheckFailedException":
                return False
            raise
        return True
