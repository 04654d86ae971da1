"""The lines before the endpoints: requests that are not answered yet, oldest first."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from boto3.dynamodb.conditions import Key

from contracts.generation import MOST_COUNTED_POSITIONS
from contracts.storage import TableKey, waiting_item
from lambdas.adapters.table import Generations
from lambdas.domain.generations import LONGEST_WAIT, GenerationRow


class Lines(Generations):
    """What waits for longer than any endpoint takes has expired, whether its row is gone yet or not."""

    def position(self, row: GenerationRow, now: datetime) -> int | None:
        """How many older requests its endpoint has not answered, up to a limit. None if that is not known."""
        if row.endpoint_name is None:
            return None
        oldest = waiting_item(row.endpoint_name, now - LONGEST_WAIT)
        itself = waiting_item(row.endpoint_name, row.created_at, row.id)
        answer = self._table.query(
            KeyConditionExpression=Key("pk").eq(itself.pk) & Key("sk").between(oldest.sk, itself.sk),
            Select="COUNT",
            Limit=MOST_COUNTED_POSITIONS + 1,
            ConsistentRead=True,
        )
        return max(int(answer["Count"]) - 1, 0)

    def waiting(self, endpoint_name: str, now: datetime) -> Iterator[GenerationRow]:
        """The requests to which the endpoint owes an answer."""
        oldest = waiting_item(endpoint_name, now - LONGEST_WAIT)
        for item in self._starting(TableKey(oldest.pk, "")):
            row = self.get(item["generation_id"]) if item["sk"] >= oldest.sk else None
            if row is not None and row.status == "queued":
                yield row
