"""The last step of a run: an endpoint is made, asleep, and what becomes of one that fails, against moto."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

from contracts import errors
from lambdas.adapters import hosting
from lambdas.hosting import host_model
from tests.integration.account import BUCKET, Account, Context, fail_once
from tests.integration.steps import hosted, published


def test_an_endpoint_sleeps_right_after_its_creation_and_is_left_alone_afterwards(
    account: Account, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_to_sleep: list[str] = []
    monkeypatch.setattr(hosting, "send_to_sleep", lambda name: not put_to_sleep.append(name))
    first = hosted(published(account, context), context)
    assert put_to_sleep == [first["endpoint_name"]]
    assert first["endpoint_changed"]
    again = {name: value for name, value in first.items() if not name.startswith("endpoint_")}
    hosted(again, context)  # the endpoint is there, and may be drawing
    assert len(put_to_sleep) == 1


def test_an_endpoint_that_was_rolled_back_fails_the_run_instead_of_being_updated_for_ever(
    account: Account, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = published(account, context)
    found = {"EndpointStatus": "InService", "EndpointConfigName": "old", "FailureReason": "image not found"}
    updates: list[Any] = []
    rested: list[str] = []
    monkeypatch.setattr(hosting, "describe", lambda _name: found)
    monkeypatch.setattr(hosting, "is_run_by", lambda _found, _role: True)
    monkeypatch.setattr(hosting, "update", lambda plan, _scaling: not updates.append(plan))
    monkeypatch.setattr(host_model, "let_it_rest", lambda _env, name: rested.append(name))
    first = host_model.handler(done, context)
    assert rested == []
    with pytest.raises(errors.HostingFailed, match="image not found"):
        host_model.handler(first, context)
    assert len(updates) == 1
    assert rested == [first["endpoint_name"]]  # what serves now is to sleep again, too


class Capacity:
    """An endpoint that fails as often as is said. Time passes when somebody looks at it."""

    REASON = "Unable to provision requested ML compute capacity due to InsufficientInstanceCapacity error."

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failures: int, reason: str = REASON) -> None:
        self.made = 0
        self.waited: list[timedelta] = []  # before another try
        self._failures, self._reason = failures, reason
        self._age: timedelta | None = None  # since its last change; None: there is none
        monkeypatch.setattr(hosting, "describe", self._describe)
        monkeypatch.setattr(hosting, "is_run_by", lambda _found, _role: True)
        monkeypatch.setattr(hosting, "create", self._create)
        monkeypatch.setattr(hosting, "delete", self._delete)
        monkeypatch.setattr(host_model, "let_it_rest", lambda _env, _name: None)

    def _describe(self, _name: str) -> dict[str, Any] | None:
        if self._age is None:
            return None
        self._age += timedelta(minutes=4)
        if self.made > self._failures:
            return {"EndpointStatus": "InService", "EndpointConfigName": self._config}
        changed = datetime.now(UTC) - self._age
        return {"EndpointStatus": "Failed", "FailureReason": self._reason, "LastModifiedTime": changed}

    def _create(self, plan: Any) -> None:
        self.made += 1
        self._age, self._config = timedelta(), plan.config_name

    def _delete(self, _name: str) -> None:
        assert self._age is not None
        self.waited.append(self._age)
        self._age = None


def test_an_endpoint_for_which_there_is_no_instance_is_made_again_a_while_later(
    account: Account, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = published(account, context)
    capacity = Capacity(monkeypatch, failures=3)
    hosted(done, context)
    assert capacity.made == 4
    assert capacity.waited == [timedelta(minutes=16)] * 3


@pytest.mark.parametrize(
    ("reason", "made", "cure"),
    [
        (Capacity.REASON, 4, "again later"),
        ("The primary container did not pass the ping health check.", 1, "Read the log"),
    ],
)
def test_an_endpoint_that_never_comes_up_fails_the_run(
    account: Account, context: Context, monkeypatch: pytest.MonkeyPatch, reason: str, made: int, cure: str
) -> None:
    done = published(account, context)
    capacity = Capacity(monkeypatch, failures=9, reason=reason)
    with pytest.raises(errors.HostingFailed, match=reason) as failed:
        hosted(done, context)
    assert capacity.made == made
    assert cure in failed.value.cure


def test_an_endpoint_beyond_the_quota_names_the_quota(
    account: Account, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "The account-level service limit 'ml.g5.xlarge for endpoint usage' is 0 Instances"

    done = published(account, context)
    fail_once(monkeypatch, "CreateEndpoint", "ResourceLimitExceeded", text)
    with pytest.raises(errors.HostingFailed, match=r"ml\.g5\.xlarge for endpoint usage") as failed:
        host_model.handler(done, context)
    assert "Service Quotas" in failed.value.cure


def test_blocked_words_and_watermark_reach_the_container(
    account: Account, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOCKED_WORDS", "red scarf,hat")
    monkeypatch.setenv("WATERMARK", "made, by us")
    hosted(published(account, context), context)
    sagemaker = boto3.client("sagemaker")
    [model] = sagemaker.list_models()["Models"]
    environment = sagemaker.describe_model(ModelName=model["ModelName"])["PrimaryContainer"]["Environment"]
    assert environment.pop("BASE_MODEL_CHECKSUM") == "c" * 64
    assert environment == {"DATA_BUCKET": BUCKET, "BLOCKED_WORDS": "red scarf,hat", "WATERMARK": "made, by us"}
