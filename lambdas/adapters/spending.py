"""What trainings cost an owner on a day: reserved before a job starts, corrected to the truth when it has ended.

One counter a day and owner (pk SPENDING#<owner>, sk <day>), and in the run's row what each of its jobs holds of it.
Both change in one transaction, so neither a repetition nor two that meet can count anything twice.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from botocore.exceptions import ClientError

from contracts.errors import Unavailable
from contracts.pipeline import DatasetTaken, JobReceipt
from contracts.storage import TableKey, run_item, spending_item
from lambdas.adapters.clients import cancellation_reasons
from lambdas.adapters.rows import SECONDS_A_DAY, Rows

KEEP_DAYS = 35
MEETINGS = 10  # with others at the same rows, until the caller is to come back later
PAUSE_SECONDS = 0.2


class Spending(Rows):
    def reserve(self, taken: DatasetTaken, attempt: int, dollars: float, *, budget_dollars: float, day: date) -> bool:
        """False when the owner's day has not so much left. Safe to repeat."""
        amount = _exactly(dollars)
        room = _exactly(budget_dollars) - amount
        if room < 0:
            return False
        hold = {
            **self._job_of(taken, attempt),
            "UpdateExpression": "SET jobs.#attempt = :held",
            "ConditionExpression": "attribute_not_exists(jobs.#attempt)",
            "ExpressionAttributeValues": {":held": {"day": day.isoformat(), "dollars": amount}},
        }
        count = self._count(self._row(taken)["owner"], day, amount)
        count["ConditionExpression"] = "attribute_not_exists(dollars) OR dollars <= :room"
        count["ExpressionAttributeValues"][":room"] = room
        return self._both(hold, count) or str(attempt) in self._row(taken)["jobs"]

    def settle(self, taken: DatasetTaken, receipt: JobReceipt) -> float:
        """The truth replaces what the job held. Safe to repeat; the last receipt counts.

        Returns how many dollars are news. Nothing happens when the run is not known, as after its deletion.
        """
        text = receipt.model_dump_json()
        for _ in range(MEETINGS):
            row = self._row(taken)
            held = row["jobs"].get(str(receipt.attempt))
            if held is None or held.get("receipt") == text:
                return 0.0
            told = JobReceipt.model_validate_json(held["receipt"]).dollars if "receipt" in held else 0.0
            settled = {**held, "dollars": _exactly(receipt.dollars), "receipt": text}
            replace = {
                **self._job_of(taken, receipt.attempt),
                "UpdateExpression": "SET jobs.#attempt = :settled",
                "ConditionExpression": "jobs.#attempt = :held",
                "ExpressionAttributeValues": {":settled": settled, ":held": held},
            }
            change = settled["dollars"] - held["dollars"]
            if self._both(replace, self._count(row["owner"], date.fromisoformat(held["day"]), change)):
                return receipt.dollars - told
        raise Unavailable(f"The receipt of {taken.run_id}, attempt {receipt.attempt}, changes all the time.")

    def of_day(self, taken: DatasetTaken, day: date) -> float:
        """What the run's owner has spent and reserved."""
        counted = self._get(spending_item(self._row(taken)["owner"], day)) or {}
        return float(counted.get("dollars", 0))

    def _row(self, taken: DatasetTaken) -> dict[str, Any]:
        return {"owner": "", "jobs": {}, **(self._get(run_item(taken.subject, taken.run_id)) or {})}

    def _job_of(self, taken: DatasetTaken, attempt: int) -> dict[str, Any]:
        names = {"#attempt": str(attempt)}
        return {**self._update_of(run_item(taken.subject, taken.run_id)), "ExpressionAttributeNames": names}

    def _count(self, owner: str, day: date, amount: Decimal) -> dict[str, Any]:
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        return {
            **self._update_of(spending_item(owner, day)),
            "UpdateExpression": "SET expires_at = :forgotten ADD dollars :amount",
            "ExpressionAttributeValues": {
                ":forgotten": int(midnight.timestamp()) + KEEP_DAYS * SECONDS_A_DAY,
                ":amount": amount,
            },
        }

    def _update_of(self, key: TableKey) -> dict[str, Any]:
        return {"TableName": self._table.name, "Key": key._asdict()}

    def _both(self, *updates: dict[str, Any]) -> bool:
        """False when a condition does not hold. Another transaction at the same rows is waited for."""
        for _ in range(MEETINGS):
            try:
                self._table.meta.client.transact_write_items(TransactItems=[{"Update": one} for one in updates])
            except ClientError as error:
                reasons = cancellation_reasons(error)
                if "ConditionalCheckFailed" in reasons:
                    return False
                if "TransactionConflict" not in reasons:
                    raise
                time.sleep(PAUSE_SECONDS * random.random())  # noqa: S311  nothing secret
            else:
                return True
        raise Unavailable("Too many trainings change the daily budget at once.")


def _exactly(dollars: float) -> Decimal:
    return Decimal(str(round(dollars, 4)))
