"""MiniStack finds its stores through the account and region of the running request; our own threads have no request."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ministack.core.responses import set_request_account_id, set_request_region

P = ParamSpec("P")
T = TypeVar("T")


def in_account(account: str, region: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs `work` as if a request of this account and region had asked for it; the caller's context stays as it is."""

    def scoped() -> T:
        set_request_account_id(account)
        set_request_region(region)
        return work(*args, **kwargs)

    return contextvars.copy_context().run(scoped)
