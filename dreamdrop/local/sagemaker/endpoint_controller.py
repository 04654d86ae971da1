"""Keeps one endpoint as it should be: boots, replaces, restarts, scales and removes its serving process."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, NamedTuple

from dreamdrop.local.images import ImageError
from dreamdrop.local.sagemaker.async_delivery import EXPIRED, AsyncDelivery
from dreamdrop.local.sagemaker.async_queue import AsyncQueue
from dreamdrop.local.sagemaker.errors import ClientFailure, EngineStopped, StartFailure
from dreamdrop.local.sagemaker.platform import Platform
from dreamdrop.local.sagemaker.serving import NotAccepted, ServingInstance
from dreamdrop.local.sagemaker.store import Record, RecordStore

logger = logging.getLogger(__name__)

EVENT = "SageMaker Endpoint State Change"
DEFAULT_CONCURRENCY = 4
_MAX_BACKOFF_SECONDS = 10.0
_START_ERRORS = (StartFailure, ClientFailure, ImageError)


class Target(NamedTuple):
    """What the endpoint should be: {"Config": ..., "Model": ...} on 0 or 1 instances."""

    deployment: Record
    instances: int


class _Deleted(Exception):
    """Interrupts a boot."""


class EndpointController:
    """One thread that compares the endpoint with its target about ten times a second."""

    def __init__(
        self, name: str, platform: Platform, store: RecordStore, requests: RecordStore, target: Target
    ) -> None:
        self.name = name
        self.queue = AsyncQueue(name, requests)
        self.instance: ServingInstance | None = None
        self._platform = platform
        self._store = store
        self._requests = requests
        self._target = target
        self._failures = 0
        self._deleted = threading.Event()
        self._changed = threading.Event()
        self._was_created = bool((store.get(name) or {}).get("EndpointStatus") != "Creating")
        self.thread = threading.Thread(target=self._run, name=f"endpoint-{name}", daemon=True)

    @property
    def target(self) -> Target:
        return self._target

    def retarget(self, target: Target) -> None:
        self._target = target
        self._changed.set()

    def delete(self) -> None:
        self._deleted.set()
        self._changed.set()

    def _run(self) -> None:
        try:
            while not self._deleted.is_set():
                self._platform.leave_if_closing()
                try:
                    self._reconcile()
                except _Deleted:
                    break
                except EngineStopped:
                    raise
                except Exception as error:  # the thread's boundary: the endpoint must show it
                    logger.exception("The endpoint %s failed in the platform.", self.name)
                    self._fail(f"InternalServerError: {error}")
                self._changed.wait(0.1)
                self._changed.clear()
            self._remove()
        except EngineStopped:
            return

    def _reconcile(self) -> None:
        self._drop_expired()
        instance = self.instance
        with self._store.transaction():
            target, status = self._target, self._record()["EndpointStatus"]
        if status == "Failed":
            self._drop(self.queue.remove_all(), f"The endpoint {self.name} failed.")
        elif target.instances == 0:
            self._scale_in()
            if status != "InService":
                self._settle(target)
        elif instance is None or instance.deployment != target.deployment:
            self._boot(target)
        elif not instance.alive:
            self._restart(instance)
        elif status != "InService":
            self._settle(target)

    def _scale_in(self) -> None:
        if self.instance:
            instance, self.instance = self.instance, None
            self._retire(instance)

    def _boot(self, target: Target) -> None:
        """Starts a new process beside the old one, if there is one, and switches when it answers."""
        fresh = ServingInstance(self._platform, self.name, target.deployment)
        try:
            fresh.prepare()
            fresh.start(self._tick)
        except (*_START_ERRORS, _Deleted) as error:
            fresh.retire(0)
            if isinstance(error, _Deleted):
                raise
            self._boot_failed(error)
            return
        old, self.instance = self.instance, fresh
        self._serve_queue(fresh)
        self._settle(target)
        if old:
            self._retire(old)

    def _boot_failed(self, error: Exception) -> None:
        if self.instance:  # an update: the old process goes on
            self._target = Target(self.instance.deployment, 1)
            self._settle(self._target, reason=f"The update failed and was rolled back: {error}")
        elif self._was_created:
            self._count_failure(f"The endpoint does not start any more: {error}")
        else:
            self._fail(str(error))

    def _restart(self, instance: ServingInstance) -> None:
        if instance.served:
            self._failures = 0
        logger.warning("The serving process of %s ended; it is started again.", self.name)
        if not self._count_failure("The container stopped again and again."):
            return
        try:
            instance.start(self._tick)
        except _START_ERRORS:
            logger.warning("The serving process of %s did not start.", self.name, exc_info=True)
            return  # the next round counts this as another crash
        self.queue.touch()

    def _count_failure(self, reason: str) -> bool:
        """Waits the backoff and returns True, or fails the endpoint at the limit."""
        self._failures += 1
        settings = self._platform.settings
        if self._failures > settings.restart_limit:
            self._fail(f"{reason} ({settings.restart_limit} restarts)")
            return False
        end = time.monotonic() + min(settings.restart_backoff_seconds * 2 ** (self._failures - 1), _MAX_BACKOFF_SECONDS)
        while time.monotonic() < end:
            self._tick()
            self._deleted.wait(0.05)
        return True

    def _serve_queue(self, instance: ServingInstance) -> None:
        config = instance.deployment["Config"].get("AsyncInferenceConfig")
        if not config:
            return
        concurrency = config.get("ClientConfig", {}).get("MaxConcurrentInvocationsPerInstance", DEFAULT_CONCURRENCY)
        for number in range(concurrency):
            name = f"async-{self.name}-{number}"
            threading.Thread(target=self._work, args=(instance,), name=name, daemon=True).start()

    def _work(self, instance: ServingInstance) -> None:
        def ready() -> bool:
            return not instance.retired and not self._platform.closing.is_set()

        delivery = AsyncDelivery(self._platform, instance.deployment)
        while ready():
            if not instance.alive:
                time.sleep(0.05)  # the controller restarts it
                continue
            request = self.queue.take(lambda: ready() and instance.alive)
            if request is None:
                continue
            try:
                delivery.serve(request, instance)
            except NotAccepted:
                self.queue.put_back(request)
                time.sleep(0.05)
            except EngineStopped:
                return
            except Exception:  # the thread's boundary: the other requests must go on
                logger.exception("The request %s was lost in the platform.", request.inference_id)
                self.queue.done(request)
            else:
                self.queue.done(request)

    def _retire(self, instance: ServingInstance) -> None:
        instance.retire(self._platform.settings.serving_stop_grace_seconds)

    def _remove(self) -> None:
        self._scale_in()
        self._drop(self.queue.remove_all(), f"The endpoint {self.name} was deleted.")
        record = self._store.delete(self.name)
        if record:
            self._platform.tell(EVENT, _event(record), record["EndpointArn"])

    def _tick(self) -> None:
        self._platform.leave_if_closing()
        if self._deleted.is_set():
            raise _Deleted
        self._drop_expired()

    def _drop_expired(self) -> None:
        self._drop(self.queue.remove_expired(), EXPIRED)

    def _drop(self, requests: list[Any], reason: str) -> None:
        delivery = AsyncDelivery(self._platform, self._target.deployment)
        for request in requests:
            delivery.fail(request, reason)
            self._requests.delete(request.id)

    def _record(self) -> Record:
        return self._store.get(self.name) or {"EndpointStatus": "Deleting"}

    def _settle(self, target: Target, reason: str | None = None) -> None:
        self._was_created = True
        if self.instance:
            self._failures = 0
        self.queue.touch()
        config_name = target.deployment["Config"]["EndpointConfigName"]
        variants = variants_of(target.deployment, current=target.instances, desired=target.instances)
        self._publish(
            "InService",
            EndpointConfigName=config_name,
            ProductionVariants=variants,
            Deployment=target.deployment,
            AsyncInferenceConfig=target.deployment["Config"].get("AsyncInferenceConfig"),
            FailureReason=reason,
        )

    def _fail(self, reason: str) -> None:
        self._scale_in()
        self._publish("Failed", FailureReason=reason[:1024])

    def _publish(self, status: str, **changes: Any) -> None:
        with self._store.transaction():
            if self._record()["EndpointStatus"] == "Deleting":
                return
            record = self._store.update(self.name, EndpointStatus=status, LastModifiedTime=time.time(), **changes)
        self._platform.tell(EVENT, _event(record), record["EndpointArn"])


def variants_of(deployment: Record, *, current: int, desired: int) -> list[Record]:
    """ProductionVariants of DescribeEndpoint."""
    variant = deployment["Config"]["ProductionVariants"][0]
    weight = variant.get("InitialVariantWeight", 1.0)
    model = deployment["Model"]
    image = (model.get("PrimaryContainer") or model["Containers"][0])["Image"]
    return [
        {
            "VariantName": variant["VariantName"],
            "DeployedImages": [{"SpecifiedImage": image, "ResolvedImage": image}],
            "CurrentWeight": weight,
            "DesiredWeight": weight,
            "CurrentInstanceCount": current,
            "DesiredInstanceCount": desired,
        }
    ]


def _event(record: Record) -> Record:
    """The events spell the status in capitals: IN_SERVICE."""
    spelled = {"InService": "IN_SERVICE"}.get(record["EndpointStatus"], record["EndpointStatus"].upper())
    return {**{k: v for k, v in record.items() if k not in ("Deployment", "Tags")}, "EndpointStatus": spelled}
