"""AddTags, ListTags, DeleteTags on whatever the engine has created."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from dreamdrop.local.sagemaker.errors import invalid
from dreamdrop.local.sagemaker.store import Record, RecordStore

MAX_TAGS = 50


class Tags:
    """`kinds`: for each kind of resource its store and the members that hold its name and its ARN."""

    def __init__(self, kinds: Iterable[tuple[RecordStore, str, str]]) -> None:
        self._kinds = list(kinds)

    def operations(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        return {"AddTags": self.add, "ListTags": self.list_tags, "DeleteTags": self.delete}

    def add(self, body: dict[str, Any]) -> dict[str, Any]:
        merged = {tag["Key"]: tag for tag in [*self._tags(body["ResourceArn"]), *body["Tags"]]}
        if len(merged) > MAX_TAGS:
            raise invalid(f"A resource holds at most {MAX_TAGS} tags.")
        self._store(body["ResourceArn"], list(merged.values()))
        return {"Tags": list(merged.values())}

    def list_tags(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"Tags": self._tags(body["ResourceArn"])}

    def delete(self, body: dict[str, Any]) -> dict[str, Any]:
        kept = [tag for tag in self._tags(body["ResourceArn"]) if tag["Key"] not in body["TagKeys"]]
        self._store(body["ResourceArn"], kept)
        return {}

    def _tags(self, arn: str) -> list[dict[str, str]]:
        tags: list[dict[str, str]] = self._find(arn)[2].get("Tags", [])
        return tags

    def _store(self, arn: str, tags: list[dict[str, str]]) -> None:
        store, name, _ = self._find(arn)
        store.update(name, Tags=tags)

    def _find(self, arn: str) -> tuple[RecordStore, str, Record]:
        for store, name_member, arn_member in self._kinds:
            for record in store.all():
                if record[arn_member] == arn.lower():
                    return store, record[name_member], record
        raise invalid(f"Could not find the resource {arn}.")
