"""The table: subjects with their runs, and generations. Every write is conditional where two could meet."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

import boto3
from boto3.dynamodb.conditions import Attr, Key
from botocore.exceptions import ClientError

from contracts.artifact import PromotedVersion
from contracts.errors import ErrorReport
from contracts.generation import KEEP_GENERATIONS_DAYS, GenerationTimings
from contracts.pipeline import DatasetTaken, Quote, Run, RunStatus, Stage, Subject
from contracts.storage import ALL_SUBJECTS, TableKey, generation_item, run_item, subject_item
from lambdas.adapters.clients import error_code
from lambdas.domain.generations import GenerationRow

_SECONDS_A_DAY = 86400


@cache
def _table(name: str) -> Any:
    return boto3.resource("dynamodb").Table(name)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class _Rows:
    def __init__(self, table_name: str) -> None:
        self._table = _table(table_name)

    def _get(self, key: TableKey) -> dict[str, Any] | None:
        item: dict[str, Any] | None = self._table.get_item(Key=key._asdict(), ConsistentRead=True).get("Item")
        return item

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


class Hosted(NamedTuple):
    """A subject that can be drawn now."""

    subject: str
    version: str  # the promoted one
    endpoint_name: str
    base_model: str


class Subjects(_Rows):
    """pk SUBJECTS, sk <subject>; runs under pk SUBJECT#<subject>, sk RUN#<run>."""

    def take(self, taken: DatasetTaken) -> bool:
        """Records a new run, and makes it the subject's newest, in one transaction. False if it was known."""
        now = _now()
        run: dict[str, Any] = {
            **run_item(taken.subject, taken.run_id)._asdict(),
            **taken.plain(),
            "status": "running",
            "stage": "taken",
            "stages": [{"stage": "taken", "at": now}],
            "updated_at": now,
        }
        name = self._table.name
        newest = {
            "TableName": name,
            "Key": subject_item(taken.subject)._asdict(),
            "UpdateExpression": "SET #subject = :subject, run_id = :run, #status = :running, updated_at = :now "
            "REMOVE #error",
            "ExpressionAttributeNames": {"#subject": "subject", "#status": "status", "#error": "error"},
            "ExpressionAttributeValues": {
                ":subject": taken.subject,
                ":run": taken.run_id,
                ":running": "running",
                ":now": now,
            },
        }
        once = {"TableName": name, "Item": run, "ConditionExpression": "attribute_not_exists(pk)"}
        try:
            self._table.meta.client.transact_write_items(TransactItems=[{"Put": once}, {"Update": newest}])
        except ClientError as error:
            if error_code(error) == "TransactionCanceledException" and self._get(run_item(taken.subject, taken.run_id)):
                return False
            raise
        return True

    def enter(self, taken: DatasetTaken, stage: Stage, **values: Any) -> None:
        """Moves a run on. A run that has ended stays as it ended."""
        self._advance(taken, stage, "running", values)

    def succeed(self, taken: DatasetTaken) -> bool:
        return self._advance(taken, "ready", "succeeded", {})

    def fail(self, taken: DatasetTaken, report: ErrorReport) -> bool:
        """False if the run had ended before: the first ending counts."""
        return self._advance(taken, "failed", "failed", {"error": report.model_dump()})

    def _advance(self, taken: DatasetTaken, stage: Stage, status: RunStatus, values: dict[str, Any]) -> bool:
        now = _now()
        moved = self._update(
            run_item(taken.subject, taken.run_id),
            {**values, "stage": stage, "status": status, "updated_at": now},
            Attr("status").eq("running"),
            extra="#stages = list_append(#stages, :entry)",
        )
        ended = self._get(run_item(taken.subject, taken.run_id)) if not moved else None
        # The subject mirrors its newest run only; written again when a try before this one died in between.
        row = ended or {"status": status, **values}
        mirrored = {"status": row["status"], "updated_at": now, "error": row.get("error")}
        self._update(subject_item(taken.subject), mirrored, Attr("run_id").eq(taken.run_id))
        return moved

    def is_running(self, taken: DatasetTaken) -> bool:
        run = self._get(run_item(taken.subject, taken.run_id))
        return run is not None and run["status"] == "running"

    def refuse(self, subject: str, report: ErrorReport) -> bool:
        """A dataset that cannot even be taken, such as one with an unusable name. False if that is recorded already."""
        key = subject_item(subject)
        known = self._get(key)
        if known and known.get("error") == report.model_dump():
            return False
        values = {"subject": subject, "status": "failed", "updated_at": _now(), "error": report.model_dump()}
        return self._update(key, values)

    def promote(
        self, taken: DatasetTaken, version: str, endpoint_name: str, base_model: str, instance_prompt: str
    ) -> PromotedVersion | None:
        """Points the subject at a version and its endpoint in one write; None if a newer dataset has been promoted."""
        run = self._get(run_item(taken.subject, taken.run_id)) or {}
        taken_at = run["stages"][0]["at"]
        values = {
            "version": version,
            "version_taken_at": taken_at,
            "endpoint_name": endpoint_name,
            "base_model": base_model,
            "instance_prompt": instance_prompt,
        }
        older = Attr("version_taken_at").not_exists() | Attr("version_taken_at").lte(taken_at)
        if not self._update(subject_item(taken.subject), values, older):
            return None
        return PromotedVersion(version=version, taken_at=taken_at)

    def hosted(self, subject: str) -> Hosted | None:
        """None if it is unknown or cannot be drawn yet."""
        item = self._get(subject_item(subject))
        if item is None or "endpoint_name" not in item or "version" not in item:
            return None
        return Hosted(subject, item["version"], item["endpoint_name"], item["base_model"])

    def run(self, subject: str, run_id: str) -> Run | None:
        item = self._get(run_item(subject, run_id))
        return _run(item) if item else None

    def newest_run_id(self, subject: str) -> str | None:
        item = self._get(subject_item(subject)) or {}
        return item.get("run_id")

    def all(self) -> list[Subject]:
        subjects: list[Subject] = []
        query: dict[str, Any] = {"KeyConditionExpression": Key("pk").eq(ALL_SUBJECTS)}
        while True:
            page = self._table.query(**query)
            subjects += [_subject(item) for item in page["Items"]]
            if "LastEvaluatedKey" not in page:
                return subjects
            query["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def one(self, name: str) -> Subject | None:
        item = self._get(subject_item(name))
        if item is None:
            return None
        run = self._get(run_item(name, item["run_id"])) if "run_id" in item else None
        return _subject(item).model_copy(update={"run": _run(run) if run else None})


def _subject(item: dict[str, Any]) -> Subject:
    ready = "endpoint_name" in item and "version" in item
    return Subject.model_validate({**item, "ready": ready})


def _run(item: dict[str, Any]) -> Run:
    quote = {"quote": Quote.model_validate_json(item["quote"])} if "quote" in item else {}
    return Run.model_validate({**item, "id": item["run_id"], **quote})


class Generations(_Rows):
    """pk GENERATION#<id>, sk META; `expires_at` is the table's time to live."""

    def create(self, row: GenerationRow) -> bool:
        """False if a generation of this id exists."""
        expires = int(row.created_at.timestamp()) + KEEP_GENERATIONS_DAYS * _SECONDS_A_DAY
        item = {
            **generation_item(row.id)._asdict(),
            "owner": row.owner,
            "status": row.status,
            "submitted": False,
            "row": row.model_dump_json(),
            "expires_at": expires,
        }
        try:
            self._table.put_item(Item=item, ConditionExpression=Attr("pk").not_exists())
        except ClientError as error:
            if error_code(error) == "ConditionalCheckFailedException":
                return False
            raise
        return True

    def get(self, generation_id: str) -> GenerationRow | None:
        item = self._get(generation_item(generation_id))
        if item is None:
            return None
        stored = json.loads(item["row"]) | json.loads(item.get("ending", "{}"))
        return GenerationRow.model_validate({**stored, "status": item["status"], "submitted": item["submitted"]})

    def mark_submitted(self, generation_id: str) -> None:
        self._update(generation_item(generation_id), {"submitted": True})

    def succeed(
        self, generation_id: str, finished_at: datetime, images: list[str], seeds: list[int], timings: GenerationTimings
    ) -> bool:
        ending = {"images": images, "seeds": seeds, "timings": timings.model_dump()}
        return self._finish(generation_id, "succeeded", finished_at, ending)

    def fail(self, generation_id: str, finished_at: datetime, report: ErrorReport) -> bool:
        status = "expired" if report.code == "generation_expired" else "failed"
        return self._finish(generation_id, status, finished_at, {"error": report.model_dump()})

    def _finish(self, generation_id: str, status: str, finished_at: datetime, ending: dict[str, Any]) -> bool:
        """False if it had ended before, or is not known: the first ending counts."""
        values = {"status": status, "ending": json.dumps({**ending, "finished_at": finished_at.isoformat()})}
        return self._update(generation_item(generation_id), values, Attr("status").eq("queued"))
