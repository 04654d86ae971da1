"""CreateEndpoint and its kin, InvokeEndpoint and InvokeEndpointAsync."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from dreamdrop.local.sagemaker.async_delivery import model_error
from dreamdrop.local.sagemaker.async_queue import AsyncRequest
from dreamdrop.local.sagemaker.catalog import Catalog
from dreamdrop.local.sagemaker.endpoint_controller import EndpointController, Target, variants_of
from dreamdrop.local.sagemaker.errors import SageMakerError, invalid, not_found
from dreamdrop.local.sagemaker.invocation import DEFAULT_TTL_SECONDS, async_parameters, container_headers, locations
from dreamdrop.local.sagemaker.listing import page
from dreamdrop.local.sagemaker.platform import Platform
from dreamdrop.local.sagemaker.serving import Answer, NoAnswer, NotAccepted, discard_leftovers
from dreamdrop.local.sagemaker.store import Record, RecordStore

REALTIME_TIMEOUT_SECONDS = 60
DEFAULT_ASYNC_TIMEOUT_SECONDS = 900
_INVOCABLE = ("InService", "Updating")
_SUMMARY = ("EndpointName", "EndpointArn", "CreationTime", "LastModifiedTime", "EndpointStatus")


class Endpoints:
    def __init__(self, platform: Platform, catalog: Catalog) -> None:
        self._platform = platform
        self._catalog = catalog
        self.store = RecordStore(platform.work / "records" / "endpoints")
        self._requests = RecordStore(platform.work / "records" / "async-requests")
        self._controllers: dict[str, EndpointController] = {}
        self._lock = threading.RLock()

    def operations(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        return {
            "CreateEndpoint": self.create,
            "DescribeEndpoint": self.describe,
            "ListEndpoints": self.list_endpoints,
            "UpdateEndpoint": self.update,
            "UpdateEndpointWeightsAndCapacities": self.update_capacities,
            "DeleteEndpoint": self.delete,
        }

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["EndpointName"]
        deployment = self._deployment(body["EndpointConfigName"])
        arn = self._platform.arn("endpoint", name)
        now = time.time()
        record = {
            "EndpointName": name,
            "EndpointArn": arn,
            "EndpointConfigName": body["EndpointConfigName"],
            "ProductionVariants": variants_of(deployment, current=0, desired=1),
            "EndpointStatus": "Creating",
            "CreationTime": now,
            "LastModifiedTime": now,
            "Deployment": deployment,
            "Tags": body.get("Tags", []),
        }
        with self._lock:
            if not self.store.add(name, record):
                raise invalid(f'Cannot create already existing endpoint "{arn}".')
            self._start(name, Target(deployment, 1))
        return {"EndpointArn": arn}

    def describe(self, body: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in self._existing(body["EndpointName"]).items() if k not in ("Deployment", "Tags")}

    def list_endpoints(self, body: dict[str, Any]) -> dict[str, Any]:
        endpoints, more = page(self.store.all(), body, "Endpoint", descending=True, summary=_SUMMARY)
        return {"Endpoints": endpoints, **more}

    def update(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["EndpointName"]
        deployment = self._deployment(body["EndpointConfigName"])
        with self._lock:
            controller = self._in_service(name)
            count = controller.target.instances if body.get("RetainAllVariantProperties") else 1
            self._retarget(controller, Target(deployment, count))
        return {"EndpointArn": self._platform.arn("endpoint", name)}

    def update_capacities(self, body: dict[str, Any]) -> dict[str, Any]:
        name = body["EndpointName"]
        with self._lock:
            controller = self._in_service(name)
            desired = body["DesiredWeightsAndCapacities"]
            variant = controller.target.deployment["Config"]["ProductionVariants"][0]["VariantName"]
            if [member["VariantName"] for member in desired] != [variant]:
                raise invalid(f"The endpoint {name} has exactly the variant {variant}.")
            count = desired[0].get("DesiredInstanceCount", controller.target.instances)
            self._scale(controller, count)
        return {"EndpointArn": self._platform.arn("endpoint", name)}

    def delete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Asynchronous, as in AWS: the endpoint is Deleting until its process has ended."""
        name = body["EndpointName"]
        with self._lock:
            self._existing(name)
            self.store.update(name, EndpointStatus="Deleting", LastModifiedTime=time.time())
            self._controllers[name].delete()
        return {}

    def invoke(self, name: str, body: bytes, headers: dict[str, str]) -> Answer:
        """Raises SageMakerError, also for an answer of the model that is no success (ModelError, 424)."""
        controller = self._invocable(name)
        if self._is_async(controller):
            raise SageMakerError("ValidationError", f"Endpoint {name} is asynchronous; use InvokeEndpointAsync.")
        instance = controller.instance
        if instance is None:
            raise SageMakerError("ServiceUnavailable", f"Endpoint {name} has no instance.", 503)
        try:
            answer = instance.invoke(body, headers, REALTIME_TIMEOUT_SECONDS)
        except NotAccepted as error:
            raise SageMakerError("ServiceUnavailable", f"Endpoint {name} is starting again.", 503) from error
        except NoAnswer as error:
            raise SageMakerError("ModelError", str(error), 424) from error
        finally:
            controller.queue.touch()
        if not 200 <= answer.status < 300:
            raise SageMakerError("ModelError", model_error(answer), 424)
        return answer

    def invoke_async(self, name: str, headers: dict[str, str], body: bytes) -> dict[str, str]:
        """`headers`: those of the HTTP request. Returns the members of InvokeEndpointAsync's answer."""
        parameters = async_parameters(name, headers, body)
        with self._lock:
            controller = self._invocable(name)
            if not self._is_async(controller):
                raise SageMakerError("ValidationError", f"Endpoint {name} is not asynchronous; use InvokeEndpoint.")
            config = controller.target.deployment["Config"]["AsyncInferenceConfig"]
            request_id, now = str(uuid.uuid4()), time.time()
            output, failure = locations(config["OutputConfig"], parameters, request_id)
            inference_id = parameters.get("InferenceId", str(uuid.uuid4()))
            request = AsyncRequest(
                id=request_id,
                inference_id=inference_id,
                endpoint=name,
                headers=container_headers(parameters, inference_id),
                output_location=output,
                failure_location=failure,
                received=now,
                expires=now + parameters.get("RequestTTLSeconds", DEFAULT_TTL_SECONDS),
                timeout_seconds=parameters.get("InvocationTimeoutSeconds", DEFAULT_ASYNC_TIMEOUT_SECONDS),
                input_location=parameters.get("InputLocation"),
                body=body,
            )
            controller.queue.put(request)
        return {"InferenceId": inference_id, "OutputLocation": output, "FailureLocation": failure}

    def scale(self, name: str, count: int) -> None:
        """As Application Auto Scaling does it. Raises SageMakerError when the endpoint is not InService."""
        with self._lock:
            self._scale(self._in_service(name), count)

    def controller(self, name: str) -> EndpointController | None:
        with self._lock:
            return self._controllers.get(name) if self.store.get(name) else None

    def config(self, name: str) -> Record:
        """Raises SageMakerError."""
        return self._catalog.config(name)

    def restore(self) -> None:
        """Boots what was up when the former engine ended; removes what was being deleted."""
        with self._lock:
            for record in self.store.all():
                name, status = record["EndpointName"], record["EndpointStatus"]
                if name in self._controllers:
                    continue
                discard_leftovers(self._platform, name)
                count = record["ProductionVariants"][0]["DesiredInstanceCount"]
                if status == "InService" and count:
                    self.store.update(name, EndpointStatus="Updating")
                self._start(name, Target(record["Deployment"], count))
                if status == "Deleting":
                    self._controllers[name].delete()

    def threads(self) -> list[threading.Thread]:
        with self._lock:
            return [controller.thread for controller in self._controllers.values()]

    def _start(self, name: str, target: Target) -> None:
        controller = EndpointController(name, self._platform, self.store, self._requests, target)
        self._controllers[name] = controller
        controller.thread.start()

    def _retarget(self, controller: EndpointController, target: Target) -> None:
        name, now = controller.name, time.time()
        with self.store.transaction():  # the controller must not take "Updating" for the end of what it did before
            record = self.store.get(name) or {}
            variants = record["ProductionVariants"]
            variants[0]["DesiredInstanceCount"] = target.instances
            self.store.update(name, EndpointStatus="Updating", ProductionVariants=variants, LastModifiedTime=now)
            controller.retarget(target)

    def _scale(self, controller: EndpointController, count: int) -> None:
        if count not in (0, 1):
            raise invalid(f"DesiredInstanceCount {count}: the local cloud runs 0 or 1 instances of an endpoint.")
        if count != controller.target.instances:
            self._retarget(controller, Target(controller.target.deployment, count))

    def _deployment(self, config_name: str) -> Record:
        config = self._catalog.config(config_name)
        model = self._catalog.model(config["ProductionVariants"][0]["ModelName"])
        return {"Config": config, "Model": model}

    def _existing(self, name: str) -> Record:
        record = self.store.get(name)
        if record is None:
            raise not_found("endpoint", self._platform.arn("endpoint", name))
        return record

    def _in_service(self, name: str) -> EndpointController:
        status = self._existing(name)["EndpointStatus"]
        if status != "InService":
            arn = self._platform.arn("endpoint", name)
            raise invalid(f'Cannot update in-progress endpoint "{arn}": its status is {status}.')
        return self._controllers[name]

    def _invocable(self, name: str) -> EndpointController:
        record = self.store.get(name)
        if record is None or record["EndpointStatus"] not in _INVOCABLE:
            why = "not found" if record is None else f"in status {record['EndpointStatus']}"
            raise SageMakerError("ValidationError", f"Endpoint {name} of account {self._platform.account} is {why}.")
        return self._controllers[name]

    @staticmethod
    def _is_async(controller: EndpointController) -> bool:
        return "AsyncInferenceConfig" in controller.target.deployment["Config"]
