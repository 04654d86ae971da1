"""What every part of the engine shares: where it is, who it acts as, where it writes, whom it tells."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from dreamdrop.local.images import ContainerCommand
from dreamdrop.local.sagemaker.errors import EngineStopped
from dreamdrop.local.sagemaker.processes import ProcessTable
from dreamdrop.local.sagemaker.settings import EngineSettings
from dreamdrop.local.sagemaker.store import Record

logger = logging.getLogger(__name__)

ResolveImage = Callable[[str], ContainerCommand]
CredentialsForRole = Callable[[str], dict[str, str]]
Emit = Callable[[str, dict[str, Any], list[str]], None]

_CREDENTIALS_LIFETIME_SECONDS = 900.0


class Roles:
    """Acts as the role of a job or a model: environment of its container, clients of the platform's own transfers."""

    def __init__(self, endpoint_url: str, region: str, credentials_for_role: CredentialsForRole) -> None:
        self._endpoint_url = endpoint_url
        self._region = region
        self._credentials_for_role = credentials_for_role
        self._clients: dict[str, tuple[float, dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def environment(self, role_arn: str) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self._endpoint_url,
            "AWS_REGION": self._region,
            "AWS_DEFAULT_REGION": self._region,
            **self._credentials_for_role(role_arn),
        }

    def client(self, role_arn: str, service: str) -> Any:
        """A boto3 client with the role's permissions; credentials are renewed every quarter of an hour."""
        with self._lock:
            born, clients = self._clients.get(role_arn, (0.0, {}))
            if time.monotonic() - born > _CREDENTIALS_LIFETIME_SECONDS or not clients:
                born, clients = time.monotonic(), {"credentials": self._credentials_for_role(role_arn)}
                self._clients[role_arn] = (born, clients)
            if service not in clients:
                clients[service] = self._new_client(service, clients["credentials"])
            return clients[service]

    def _new_client(self, service: str, credentials: dict[str, str]) -> Any:
        # A session of its own: the default session is not thread-safe.
        return boto3.Session(
            aws_access_key_id=credentials["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=credentials["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=credentials.get("AWS_SESSION_TOKEN"),
            region_name=self._region,
        ).client(  # type: ignore[call-overload]
            service,
            endpoint_url=self._endpoint_url,
            config=Config(
                max_pool_connections=32,
                read_timeout=20,
                retries={"mode": "standard"},
                s3={"addressing_style": "path"},
            ),
        )


@dataclass
class Disturbances:
    """What may befall a training job from outside; nothing does unless these are replaced."""

    refuse_instance: Callable[[Record], str | None] = lambda job: None
    """Why there is no instance for the job: the reason of its failure."""
    reclaim_after: Callable[[Record], float | None] = lambda job: None
    """After how many seconds of its program the instance is taken back: SIGTERM, then the job starts again."""


class Platform:
    """The collaborators of a job run or an endpoint; `emit` may be replaced at any time."""

    def __init__(
        self,
        *,
        region: str,
        account: str,
        work: Path,
        roles: Roles,
        resolve_image: ResolveImage,
        settings: EngineSettings,
    ) -> None:
        self.region = region
        self.account = account
        self.work = work
        self.roles = roles
        self.resolve_image = resolve_image
        self.settings = settings
        self.processes = ProcessTable(work / "processes")
        self.closing = threading.Event()
        self.disturbances = Disturbances()
        self.emit: Emit = lambda detail_type, detail, resources: None

    def leave_if_closing(self) -> None:
        """Raises EngineStopped."""
        if self.closing.is_set():
            raise EngineStopped

    def arn(self, kind: str, name: str) -> str:
        return f"arn:aws:sagemaker:{self.region}:{self.account}:{kind}/{name.lower()}"

    def tell(self, detail_type: str, record: Record, arn: str) -> None:
        """An EventBridge event about a record; its times become milliseconds, as in SageMaker's events."""
        try:
            self.emit(detail_type, _with_milliseconds(record), [arn])
        except Exception:  # a subscriber's failure must not become the job's
            logger.exception("The event %r about %s was not delivered.", detail_type, arn)


def _with_milliseconds(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_milliseconds(member) for member in value]
    if isinstance(value, dict):
        return {
            name: int(member * 1000)
            if re.search("Time$|Timestamp$", name) and isinstance(member, (int, float))
            else _with_milliseconds(member)
            for name, member in value.items()
        }
    return value
