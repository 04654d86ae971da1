"""Every request that boto3 builds in this process, against botocore's service models, before it is sent.

botocore itself looks at names and types only; AWS refuses lengths, patterns and values too.
"""

from __future__ import annotations

from typing import Any

import boto3
from botocore.model import OperationModel

from dreamdrop.local.sagemaker.errors import SageMakerError
from dreamdrop.local.sagemaker.validation import check_request


class StrictRequests:
    """Watches the default session, which is the functions'. Refused requests are also kept: handlers catch much."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.seen: set[tuple[str, str]] = set()

    def watch(self) -> None:
        """Before the first client is made, and inside of mock_aws, which hides the default session of before."""
        boto3.setup_default_session()
        assert boto3.DEFAULT_SESSION is not None
        # The handlers of single operations come first: what they put in is checked as it will be sent.
        boto3.DEFAULT_SESSION.events.register("before-parameter-build", self._check)

    def _check(self, params: dict[str, Any], model: OperationModel, **_more: Any) -> None:
        service = model.service_model.service_name
        self.seen.add((service, model.name))
        try:
            check_request(service, model.name, params)
        except SageMakerError as error:
            self.refused.append(f"{service} {model.name}: {error.message}")
            raise AssertionError(self.refused[-1]) from error
