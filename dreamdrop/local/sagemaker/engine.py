"""The facade: one door for every operation, and the life of the whole."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from dreamdrop.local.sagemaker.autoscaling import AutoScaling
from dreamdrop.local.sagemaker.catalog import Catalog
from dreamdrop.local.sagemaker.endpoints import Endpoints
from dreamdrop.local.sagemaker.errors import SageMakerError
from dreamdrop.local.sagemaker.platform import CredentialsForRole, Disturbances, Emit, Platform, ResolveImage, Roles
from dreamdrop.local.sagemaker.settings import EngineSettings
from dreamdrop.local.sagemaker.tags import Tags
from dreamdrop.local.sagemaker.training import TrainingJobs
from dreamdrop.local.sagemaker.validation import check_request

_JOIN_SECONDS = 3.0


class LocalSageMaker:
    """Thread-safe. Set `emit` to receive EventBridge events, then call `restore` once the AWS endpoint answers."""

    def __init__(
        self,
        *,
        endpoint_url: str,
        region: str,
        account: str,
        work: Path,
        resolve_image: ResolveImage,
        credentials_for_role: CredentialsForRole,
        settings: EngineSettings | None = None,
    ) -> None:
        """`endpoint_url` serves S3 and SNS. `work` is a directory of the engine's own; records in it are taken over."""
        work = work.resolve()
        work.mkdir(parents=True, exist_ok=True)
        self.settings = settings or EngineSettings()
        self._platform = Platform(
            region=region,
            account=account,
            work=work,
            roles=Roles(endpoint_url, region, credentials_for_role),
            resolve_image=resolve_image,
            settings=self.settings,
        )
        self._catalog = Catalog(self._platform)
        self._training = TrainingJobs(self._platform)
        self._endpoints = Endpoints(self._platform, self._catalog)
        self.autoscaling = AutoScaling(self._platform, self._endpoints)
        """Application Auto Scaling, with a `call` of its own."""
        tags = Tags(
            (
                (self._training.store, "TrainingJobName", "TrainingJobArn"),
                (self._catalog.models, "ModelName", "ModelArn"),
                (self._catalog.configs, "EndpointConfigName", "EndpointConfigArn"),
                (self._endpoints.store, "EndpointName", "EndpointArn"),
            )
        )
        self._operations = {
            **self._training.operations(),
            **self._catalog.operations(),
            **self._endpoints.operations(),
            **tags.operations(),
        }

    @property
    def emit(self) -> Emit:
        """`emit(detail_type, detail, resources)`, called from the engine's threads; the source is aws.sagemaker."""
        return self._platform.emit

    @emit.setter
    def emit(self, emit: Emit) -> None:
        self._platform.emit = emit

    @property
    def disturbances(self) -> Disturbances:
        return self._platform.disturbances

    @property
    def operations(self) -> frozenset[str]:
        return frozenset(self._operations)

    def arn(self, kind: str, name: str) -> str:
        """`kind` as in ARNs: training-job, model, endpoint-config, endpoint."""
        return self._platform.arn(kind, name)

    def call(self, operation: str, body: dict[str, Any]) -> dict[str, Any]:
        """An operation of the SageMaker API, in the JSON form of its protocol. Raises SageMakerError."""
        if operation not in self._operations:
            raise SageMakerError("UnknownOperationException", f"{operation} is not available in the local cloud.")
        check_request("sagemaker", operation, body)
        if operation == "UpdateEndpoint":
            self.autoscaling.check_update(body["EndpointName"], body["EndpointConfigName"])
        answer = self._operations[operation](body)
        if operation == "DeleteEndpoint":
            self.autoscaling.forget(body["EndpointName"])
        return answer

    def invoke(self, name: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """InvokeEndpoint: status, headers (lower-case names) and body of the model's answer. Raises SageMakerError."""
        return self._endpoints.invoke(name, body, headers)

    def invoke_async(self, name: str, headers: dict[str, str], body: bytes = b"") -> dict[str, str]:
        """InvokeEndpointAsync from the headers of its HTTP request, names in any case.

        Returns {"InferenceId", "OutputLocation", "FailureLocation"}; in HTTP the last two are headers of the answer,
        X-Amzn-SageMaker-OutputLocation and -FailureLocation. Raises SageMakerError.
        """
        return self._endpoints.invoke_async(name, headers, body)

    def wait_for_training_job(self, name: str, seconds: float) -> None:
        """Returns when the job has ended, or after that time."""
        self._training.wait(name, seconds)

    def restore(self) -> None:
        """Takes up what a former engine left: endpoints boot again, unfinished jobs fail, queued requests wait on."""
        self._platform.processes.kill_leftovers()
        self._training.restore()
        self._endpoints.restore()

    def shutdown(self) -> None:
        """Ends every process within a few seconds. The records stay for the next engine's `restore`."""
        self._platform.closing.set()
        self._platform.processes.stop_all(self.settings.shutdown_grace_seconds)
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in [*self._training.threads(), *self._endpoints.threads(), self.autoscaling.thread]:
            if thread.is_alive():
                thread.join(max(deadline - time.monotonic(), 0))
