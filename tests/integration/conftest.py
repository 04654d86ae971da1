"""What the tests of the functions share: an account, and what the API answers in it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from moto import mock_aws

os.environ |= {"POWERTOOLS_SERVICE_NAME": "test", "POWERTOOLS_METRICS_NAMESPACE": "test"}  # read when imported

from lambdas.adapters import configuration, hosting
from lambdas.adapters.table import Subjects
from tests.integration.account import REGION, TABLE, Account, Context, furnish, variables
from tests.integration.api_parts import Api, Endpoint, host
from tests.strict_requests import StrictRequests

strict_requests = StrictRequests()


@pytest.fixture
def context() -> Context:
    return Context()


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    for name, value in {
        "AWS_DEFAULT_REGION": REGION, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "POWERTOOLS_TRACE_DISABLED": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        strict_requests.watch()
        strict_requests.refused.clear()
        made = furnish()
        for name, value in variables(made).items():
            monkeypatch.setenv(name, value)
        yield made
    configuration._parsed.cache_clear()
    assert strict_requests.refused == []


@pytest.fixture
def subjects(account: Account) -> Iterator[Subjects]:
    yield Subjects(TABLE)


@pytest.fixture
def endpoint(account: Account, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    made = Endpoint()
    monkeypatch.setattr(hosting, "submit", made.submit)
    monkeypatch.setattr(hosting, "wake", made.wake)
    monkeypatch.setattr(hosting, "describe", made.describe)
    host("dog")
    yield made


@pytest.fixture
def api(context: Context) -> Api:
    return Api(context)
