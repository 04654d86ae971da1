"""Models and endpoint configurations: records that endpoints are made of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dreamdrop.local.sagemaker.errors import invalid, not_found
from dreamdrop.local.sagemaker.listing import page
from dreamdrop.local.sagemaker.platform import Platform
from dreamdrop.local.sagemaker.s3 import parse_location
from dreamdrop.local.sagemaker.store import Record, RecordStore


class Catalog:
    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.models = RecordStore(platform.work / "records" / "models")
        self.configs = RecordStore(platform.work / "records" / "endpoint-configs")

    def operations(self) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
        return {
            "CreateModel": self.create_model,
            "DescribeModel": lambda body: _public(self.model(body["ModelName"])),
            "DeleteModel": self.delete_model,
            "ListModels": self.list_models,
            "CreateEndpointConfig": self.create_config,
            "DescribeEndpointConfig": lambda body: _public(self.config(body["EndpointConfigName"])),
            "DeleteEndpointConfig": self.delete_config,
            "ListEndpointConfigs": self.list_configs,
        }

    def model(self, name: str) -> Record:
        """Raises SageMakerError."""
        record = self.models.get(name)
        if record is None:
            raise not_found("model", self._platform.arn("model", name))
        return record

    def config(self, name: str) -> Record:
        """Raises SageMakerError."""
        record = self.configs.get(name)
        if record is None:
            raise not_found("endpoint configuration", self._platform.arn("endpoint-config", name))
        return record

    def create_model(self, body: dict[str, Any]) -> dict[str, Any]:
        _check_model(body)
        name = body["ModelName"]
        arn = self._platform.arn("model", name)
        record = {"EnableNetworkIsolation": False, **body, "ModelArn": arn, "CreationTime": time.time()}
        if not self.models.add(name, record):
            raise invalid(f'Cannot create already existing model "{arn}".')
        return {"ModelArn": arn}

    def delete_model(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.models.delete(body["ModelName"]) is None:
            raise not_found("model", self._platform.arn("model", body["ModelName"]))
        return {}

    def list_models(self, body: dict[str, Any]) -> dict[str, Any]:
        summary = ("ModelName", "ModelArn", "CreationTime")
        models, more = page(self.models.all(), body, "Model", descending=True, summary=summary)
        return {"Models": models, **more}

    def create_config(self, body: dict[str, Any]) -> dict[str, Any]:
        _check_config(body)
        self.model(body["ProductionVariants"][0]["ModelName"])
        name = body["EndpointConfigName"]
        arn = self._platform.arn("endpoint-config", name)
        if not self.configs.add(name, {**body, "EndpointConfigArn": arn, "CreationTime": time.time()}):
            raise invalid(f'Cannot create already existing endpoint configuration "{arn}".')
        return {"EndpointConfigArn": arn}

    def delete_config(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.configs.delete(body["EndpointConfigName"]) is None:
            raise not_found("endpoint configuration", self._platform.arn("endpoint-config", body["EndpointConfigName"]))
        return {}

    def list_configs(self, body: dict[str, Any]) -> dict[str, Any]:
        summary = ("EndpointConfigName", "EndpointConfigArn", "CreationTime")
        configs, more = page(self.configs.all(), body, "EndpointConfig", descending=True, summary=summary)
        return {"EndpointConfigs": configs, **more}


def container_of(model: Record) -> Record:
    container: Record = model.get("PrimaryContainer") or model["Containers"][0]
    return container


def _public(record: Record) -> Record:
    return {name: value for name, value in record.items() if name != "Tags"}


def _check_model(body: dict[str, Any]) -> None:
    containers = [body["PrimaryContainer"]] if "PrimaryContainer" in body else body.get("Containers", [])
    if len(containers) != 1:
        raise invalid("The local cloud hosts models of exactly one container.")
    if "ExecutionRoleArn" not in body:
        raise invalid("CreateModel needs an ExecutionRoleArn.")
    container = containers[0]
    if "Image" not in container:
        raise invalid("The container needs an Image; the local cloud has no model packages.")
    if container.get("Mode", "SingleModel") != "SingleModel":
        raise invalid("The local cloud hosts one model a container.")
    additional = container.get("AdditionalModelDataSources", [])
    if len({source["ChannelName"] for source in additional}) < len(additional):
        raise invalid("AdditionalModelDataSources: two have the same ChannelName.")
    for source in additional:
        _check_model_data(source)
    if "ModelDataSource" in container:
        if "ModelDataUrl" in container:
            raise invalid("Give ModelDataUrl or ModelDataSource, not both.")
        _check_model_data(container["ModelDataSource"])
    elif "ModelDataUrl" in container:
        parse_location(container["ModelDataUrl"])


def _check_model_data(source: dict[str, Any]) -> None:
    s3 = source.get("S3DataSource")
    if s3 is None or "ManifestS3Uri" in s3:
        raise invalid("ModelDataSource: the local cloud reads S3DataSource without a manifest only.")
    form = (s3["S3DataType"], s3["CompressionType"])
    if form not in (("S3Prefix", "None"), ("S3Object", "Gzip")):
        raise invalid(f"ModelDataSource: the local cloud reads S3Prefix/None and S3Object/Gzip, not {'/'.join(form)}.")
    if form[0] == "S3Prefix" and not s3["S3Uri"].endswith("/"):
        raise invalid(f"ModelDataSource: the S3Uri of an S3Prefix must end with a slash, {s3['S3Uri']} does not.")
    parse_location(s3["S3Uri"])


def _check_config(body: dict[str, Any]) -> None:
    variants = body["ProductionVariants"]
    if len(variants) != 1 or body.get("ShadowProductionVariants"):
        raise invalid("The local cloud hosts endpoints of exactly one production variant.")
    if "ModelName" not in variants[0] or "ServerlessConfig" in variants[0]:
        raise invalid("The production variant needs a ModelName and instances; there is nothing serverless here.")
    if "AsyncInferenceConfig" in body:
        output = body["AsyncInferenceConfig"]["OutputConfig"]
        if "S3OutputPath" not in output:
            raise invalid("AsyncInferenceConfig.OutputConfig needs an S3OutputPath.")
        for member in ("S3OutputPath", "S3FailurePath"):
            if member in output:
                parse_location(output[member])
        if output.get("NotificationConfig", {}).get("IncludeInferenceResponseIn"):
            raise invalid("IncludeInferenceResponseIn is not available in the local cloud.")
