"""The table: subjects with their runs, generations, and deletions. Every write is conditional where two could meet."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from boto3.dynamodb.conditions import Attr, Key
from botocore.exceptions import ClientError

from contracts.artifact import PromotedVersion
from contracts.errors import ErrorReport
from contracts.generation import KEEP_GENERATIONS_DAYS, GenerationStatus, GenerationTimings
from contracts.pipeline import (
    SUBJECTS_A_PAGE,
    DatasetTaken,
    Deletion,
    JobReceipt,
    Quote,
    Receipt,
    Run,
    RunStatus,
    Stage,
    Subject,
    SubjectPage,
)
from contracts.storage import (
    ALL_SUBJECTS,
    TableKey,
    class_user_item,
    deletion_item,
    drawn_item,
    generation_item,
    run_item,
    subject_item,
    waiting_item,
    wanted_classes_item,
)
from contracts.training import Hosting
from lambdas.adapters.clients import error_code
from lambdas.adapters.rows import SECONDS_A_DAY, Rows, now_text
from lambdas.domain.generations import GenerationRow, deadline


class Hosted(NamedTuple):
    """A subject that can be drawn now."""

    subject: str
    version: str  # the promoted one
    endpoint_name: str
    base_model: str
    hosting: Hosting


class Subjects(Rows):
    """pk SUBJECTS, sk <subject>; runs under pk SUBJECT#<subject>, sk RUN#<run>."""

    def take(self, taken: DatasetTaken, uploaded_at: datetime) -> bool:
        """Records a new run, and makes it the subject's newest, in one transaction. False if it was known."""
        now = now_text()
        run: dict[str, Any] = {
            **run_item(taken.subject, taken.run_id)._asdict(),
            **taken.plain(),
            "status": "running",
            "stage": "taken",
            "stages": [{"stage": "taken", "at": now}],
            "uploaded_at": uploaded_at.isoformat(),
            "jobs": {},  # attempt -> what it holds of its owner's daily budget, and its receipt
            "updated_at": now,
        }
        name = self._table.name
        newest = {
            "TableName": name,
            "Key": subject_item(taken.subject)._asdict(),
            "UpdateExpression": "SET #subject = :subject, run_id = :run, #status = :running, updated_at = :now "
            "REMOVE #error",
            "ConditionExpression": "attribute_not_exists(deletion_requested_at)",
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
        now = now_text()
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
        values = {"subject": subject, "status": "failed", "updated_at": now_text(), "error": report.model_dump()}
        return self._update(key, values)

    def may_promote(self, taken: DatasetTaken) -> bool:
        """False if a newer dataset has been promoted, or the subject is to be deleted."""
        subject = self._get(subject_item(taken.subject)) or {}
        newest: str = subject.get("version_taken_at", "")
        return "deletion_requested_at" not in subject and newest <= self._taken_at(taken)

    def _taken_at(self, taken: DatasetTaken) -> str:
        run = self._get(run_item(taken.subject, taken.run_id)) or {}
        return str(run["stages"][0]["at"])

    def want_endpoint(self, subject: str, endpoint_name: str) -> None:
        """From before it is made until the subject is promoted to it."""
        self._update(subject_item(subject), {"wanted_endpoint_name": endpoint_name}, Attr("run_id").exists())

    def uses(self, subject: str, endpoint_name: str) -> bool:
        """Or is going to use it."""
        item = self._get(subject_item(subject)) or {}
        return endpoint_name in (item.get("endpoint_name"), item.get("wanted_endpoint_name"))

    def promote(
        self,
        taken: DatasetTaken,
        version: str,
        endpoint_name: str,
        base_model: str,
        instance_prompt: str,
        hosting: Hosting = "shared",
    ) -> PromotedVersion | None:
        """Points the subject at a version and its endpoint in one write; None if a newer dataset has been promoted, or
        the subject is to be deleted."""
        taken_at = self._taken_at(taken)
        values = {
            "version": version,
            "version_taken_at": taken_at,
            "endpoint_name": endpoint_name,
            "wanted_endpoint_name": endpoint_name,
            "base_model": base_model,
            "instance_prompt": instance_prompt,
            "hosting": hosting,
        }
        older = Attr("version_taken_at").not_exists() | Attr("version_taken_at").lte(taken_at)
        stays = Attr("run_id").exists() & Attr("deletion_requested_at").not_exists()
        if not self._update(subject_item(taken.subject), values, stays & older):
            return None
        return PromotedVersion(version=version, taken_at=datetime.fromisoformat(taken_at))

    def hosted(self, subject: str) -> Hosted | None:
        """None if it is unknown or cannot be drawn: not yet, or not any more."""
        item = self._get(subject_item(subject))
        if item is None or not _is_ready(item):
            return None
        hosting = item.get("hosting", "shared")
        return Hosted(subject, item["version"], item["endpoint_name"], item["base_model"], hosting)

    def run(self, subject: str, run_id: str) -> Run | None:
        item = self._get(run_item(subject, run_id))
        return _run(item) if item else None

    def newest_run_id(self, subject: str) -> str | None:
        item = self._get(subject_item(subject)) or {}
        return item.get("run_id")

    def use_class_images(self, subject: str, image_sets: Iterable[str]) -> None:
        """Nobody deletes a set of class pictures while a subject uses it."""
        for image_set in image_sets:
            for key in (class_user_item(image_set, subject), wanted_classes_item(subject, image_set)):
                self._table.put_item(Item={**key._asdict(), "subject": subject, "image_set": image_set})

    def page(self, after: str) -> SubjectPage:
        condition = Key("pk").eq(ALL_SUBJECTS) & Key("sk").gt(after) if after else Key("pk").eq(ALL_SUBJECTS)
        found = self._table.query(KeyConditionExpression=condition, Limit=SUBJECTS_A_PAGE)
        following = found["LastEvaluatedKey"]["sk"] if "LastEvaluatedKey" in found else None
        return SubjectPage(subjects=[_subject(item) for item in found["Items"]], next=following)

    def one(self, name: str) -> Subject | None:
        item = self._get(subject_item(name))
        if item is None:
            return None
        run = self._get(run_item(name, item["run_id"])) if "run_id" in item else None
        return _subject(item).model_copy(update={"run": _run(run) if run else None})


def _is_ready(item: dict[str, Any]) -> bool:
    return "endpoint_name" in item and "version" in item and "deletion_requested_at" not in item


def _subject(item: dict[str, Any]) -> Subject:
    status = "deleting" if "deletion_requested_at" in item else item["status"]
    return Subject.model_validate({**item, "ready": _is_ready(item), "status": status})


def _run(item: dict[str, Any]) -> Run:
    quote = {"quote": Quote.model_validate_json(item["quote"])} if "quote" in item else {}
    jobs = item.get("jobs", {})
    ended = [JobReceipt.model_validate_json(jobs[n]["receipt"]) for n in sorted(jobs, key=int) if "receipt" in jobs[n]]
    receipt = {"receipt": Receipt.of(ended)} if ended else {}
    return Run.model_validate({**item, "id": item["run_id"], **quote, **receipt})


class Generations(Rows):
    """pk GENERATION#<id>, sk META; `expires_at` is the table's time to live. While one is queued, a row under pk
    ENDPOINT#<endpoint> says so."""

    def create(self, row: GenerationRow) -> bool:
        """With what finds it by its subjects, in one transaction. False if a generation of this id exists."""
        expires = int(row.created_at.timestamp()) + KEEP_GENERATIONS_DAYS * SECONDS_A_DAY
        item = {
            **generation_item(row.id)._asdict(),
            "owner": row.owner,
            "status": row.status,
            "submitted": False,
            "row": row.model_dump_json(),
            "expires_at": expires,
        }
        # A versioned bucket keeps expired pictures as long again: until then they must be found.
        expires += KEEP_GENERATIONS_DAYS * SECONDS_A_DAY
        drawn = [
            {**drawn_item(subject, row.id)._asdict(), "generation_id": row.id, "expires_at": expires}
            for subject in row.subjects
        ]
        name = self._table.name
        overdue = int(deadline(row.created_at).timestamp())
        waiting = [{**key._asdict(), "generation_id": row.id, "expires_at": overdue} for key in _waiting(row)]
        puts: list[dict[str, Any]] = [{"Put": {"TableName": name, "Item": one}} for one in (item, *drawn, *waiting)]
        puts[0]["Put"]["ConditionExpression"] = "attribute_not_exists(pk)"
        try:
            self._table.meta.client.transact_write_items(TransactItems=puts)
        except ClientError as error:
            if error_code(error) == "TransactionCanceledException" and self._get(generation_item(row.id)):
                return False
            raise
        return True

    def get(self, generation_id: str) -> GenerationRow | None:
        """None if it is unknown or forgotten."""
        item = self._get(generation_item(generation_id))
        if item is None or "row" not in item:
            return None
        stored = json.loads(item["row"]) | json.loads(item.get("ending", "{}"))
        return GenerationRow.model_validate({**stored, "status": item["status"], "submitted": item["submitted"]})

    def mark_submitted(self, generation_id: str) -> None:
        self._update(generation_item(generation_id), {"submitted": True})

    def answered(self, generation_id: str, keys: list[str]) -> None:
        """The endpoint's own files, which hold the pictures too: `forget` wants to know them."""
        self._update(generation_item(generation_id), {"answers": keys}, Attr("pk").exists())

    def succeed(
        self,
        row: GenerationRow,
        finished_at: datetime,
        images: list[str],
        seeds: list[int],
        timings: GenerationTimings,
    ) -> bool:
        ending = {"version": row.version, "images": images, "seeds": seeds, "timings": timings.model_dump()}
        return self._finish(row, "succeeded", finished_at, ending)

    def fail(self, row: GenerationRow, finished_at: datetime, report: ErrorReport) -> bool:
        status: GenerationStatus = "expired" if report.code == "generation_expired" else "failed"
        return self._finish(row, status, finished_at, {"error": report.model_dump()})

    def cancel(self, row: GenerationRow, finished_at: datetime) -> bool:
        return self._finish(row, "cancelled", finished_at, {})

    def _finish(
        self, row: GenerationRow, status: GenerationStatus, finished_at: datetime, ending: dict[str, Any]
    ) -> bool:
        """In one transaction with leaving the line. False if it had ended before, or is not known: the first ending
        counts."""
        name = self._table.name
        update = {
            "TableName": name,
            "Key": generation_item(row.id)._asdict(),
            "UpdateExpression": "SET #status = :status, ending = :ending",
            "ConditionExpression": "#status = :queued",
            "ExpressionAttributeNames": {"#status": "status"},
            "ExpressionAttributeValues": {
                ":status": status,
                ":ending": json.dumps({**ending, "finished_at": finished_at.isoformat()}),
                ":queued": "queued",
            },
        }
        leave: list[dict[str, Any]] = [{"Delete": {"TableName": name, "Key": key._asdict()}} for key in _waiting(row)]
        try:
            self._table.meta.client.transact_write_items(TransactItems=[{"Update": update}, *leave])
        except ClientError as error:
            ended = (self._get(generation_item(row.id)) or {}).get("status") != "queued"
            if error_code(error) == "TransactionCanceledException" and ended:
                return False
            raise
        return True

    def forget(self, generation_id: str) -> list[str]:
        """Leaves the id only, so that a picture that is still to come is known as one that nobody may have.

        Returns the keys of the endpoint's own files. Safe to repeat.
        """
        row = self.get(generation_id)
        for key in _waiting(row) if row else []:
            self._table.delete_item(Key=key._asdict())
        try:
            answer = self._table.update_item(
                Key=generation_item(generation_id)._asdict(),
                UpdateExpression="SET #status = :forgotten REMOVE #row, #owner, ending",
                ConditionExpression="attribute_exists(pk)",
                ExpressionAttributeNames={"#status": "status", "#row": "row", "#owner": "owner"},
                ExpressionAttributeValues={":forgotten": "forgotten"},
                ReturnValues="ALL_NEW",
            )
        except ClientError as error:
            if error_code(error) == "ConditionalCheckFailedException":  # it has expired
                return []
            raise
        return [str(key) for key in answer["Attributes"].get("answers", [])]

    def is_unwanted(self, generation_id: str) -> bool:
        """Nobody may have its pictures: it was cancelled, or one of its subjects was deleted."""
        item = self._get(generation_item(generation_id))
        return item is not None and item["status"] in ("forgotten", "cancelled")


def _waiting(row: GenerationRow) -> list[TableKey]:
    """Its place in the line before its endpoint; none for a row that does not tell which."""
    return [waiting_item(row.endpoint_name, row.created_at, row.id)] if row.endpoint_name else []


class Deletions(Rows):
    """What deletes a subject, row by row, and the record that stays: pk DELETIONS, sk <subject>/<when>."""

    def request(self, subject: str, owner: str) -> None:
        """From now on the subject cannot be drawn. The first request counts; nothing where there is no subject."""
        wanted = Attr("pk").exists() & Attr("deletion_requested_at").not_exists()
        values = {"deletion_requested_at": now_text(), "deletion_requested_by": owner}
        self._update(subject_item(subject), values, wanted)

    def is_requested(self, subject: str) -> bool:
        return "deletion_requested_at" in (self._get(subject_item(subject)) or {})

    def begin(self, subject: str, lease_seconds: int) -> bool:
        """False if it is deleted, or somebody is at it: a second one could go on when a new upload has come."""
        free = Attr("deletion_leased_until").not_exists() | Attr("deletion_leased_until").lt(now_text())
        until = (datetime.now(UTC) + timedelta(seconds=lease_seconds)).isoformat(timespec="milliseconds")
        wanted = Attr("deletion_requested_at").exists()
        return self._update(subject_item(subject), {"deletion_leased_until": until}, wanted & free)

    def pause(self, subject: str) -> None:
        """The next one may begin."""
        wanted = Attr("deletion_requested_at").exists()
        self._update(subject_item(subject), {"deletion_leased_until": ""}, wanted)

    def runs(self, subject: str) -> list[Run]:
        return [_run(item) for item in self._starting(run_item(subject, ""))]

    def remove_run(self, subject: str, run_id: str) -> None:
        self._remove(run_item(subject, run_id))

    def generations(self, subject: str) -> list[str]:
        return [item["generation_id"] for item in self._starting(drawn_item(subject, ""))]

    def remove_generation(self, subject: str, generation_id: str) -> None:
        self._remove(drawn_item(subject, generation_id))

    def class_image_sets(self, subject: str) -> list[str]:
        return [item["image_set"] for item in self._starting(wanted_classes_item(subject, ""))]

    def is_used_by_others(self, image_set: str, subject: str) -> bool:
        """From now on not by this subject."""
        self._remove(class_user_item(image_set, subject))
        return any(True for _ in self._starting(class_user_item(image_set, "")))

    def remove_class_image_set(self, subject: str, image_set: str) -> None:
        self._remove(wanted_classes_item(subject, image_set))

    def count(self, subject: str, objects: int) -> None:
        self._table.update_item(
            Key=subject_item(subject)._asdict(),
            UpdateExpression="ADD objects_deleted :objects",
            ConditionExpression="attribute_exists(pk)",
            ExpressionAttributeValues={":objects": objects},
        )

    def finish(self, subject: str) -> Deletion:
        """The subject's row makes way for the record, in one transaction."""
        item = self._get(subject_item(subject)) or {}
        finished_at = now_text()
        done = Deletion(
            subject=subject,
            requested_at=item["deletion_requested_at"],
            requested_by=item["deletion_requested_by"],
            finished_at=datetime.fromisoformat(finished_at),
            objects=int(item.get("objects_deleted", 0)),
        )
        name = self._table.name
        record = {**deletion_item(subject, finished_at)._asdict(), **done.plain(), "finished_at": finished_at}
        row = {
            "TableName": name,
            "Key": subject_item(subject)._asdict(),
            "ConditionExpression": "attribute_exists(deletion_requested_at)",
        }
        writes = [{"Delete": row}, {"Put": {"TableName": name, "Item": record}}]
        self._table.meta.client.transact_write_items(TransactItems=writes)
        return done

    def latest(self, subject: str) -> Deletion | None:
        newest_first = self._starting(deletion_item(subject, ""), ScanIndexForward=False, Limit=1)
        item = next(newest_first, None)
        return Deletion.model_validate(item) if item else None

    def _remove(self, key: TableKey) -> None:
        self._table.delete_item(Key=key._asdict())
