"""The HTTP request of InvokeEndpointAsync -> its parameters, checked; where its answer will be."""

from __future__ import annotations

from typing import Any

from dreamdrop.local.sagemaker.errors import SageMakerError
from dreamdrop.local.sagemaker.s3 import parse_location
from dreamdrop.local.sagemaker.validation import check_request, operation_model

DEFAULT_TTL_SECONDS = 21_600
_SERVICE, _OPERATION, _CODE = "sagemaker-runtime", "InvokeEndpointAsync", "ValidationError"


def async_parameters(endpoint: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    """The members of the input shape that the request carries. Raises SageMakerError(ValidationError)."""
    sent = {name.lower(): value for name, value in headers.items()}
    parameters: dict[str, Any] = {"EndpointName": endpoint}
    shape = operation_model(_SERVICE, _OPERATION).input_shape
    for name, member in shape.members.items() if shape else ():
        value = sent.get(member.serialization.get("name", name).lower())
        if member.serialization.get("location") != "header" or not value:
            continue
        if member.type_name == "integer":
            if not value.isdecimal():
                raise SageMakerError(_CODE, f"{name} {value!r} is not a number.")
            parameters[name] = int(value)
        else:
            parameters[name] = value
    if body:
        parameters["Body"] = body
    check_request(_SERVICE, _OPERATION, parameters, _CODE)
    if ("InputLocation" in parameters) == bool(body):
        raise SageMakerError(_CODE, "Give exactly one of InputLocation and Body.")
    if "InputLocation" in parameters:
        parse_location(parameters["InputLocation"])
    return parameters


def container_headers(parameters: dict[str, Any], inference_id: str) -> dict[str, str]:
    """What the container's POST /invocations carries."""
    optional = {
        "Accept": parameters.get("Accept"),
        "X-Amzn-SageMaker-Custom-Attributes": parameters.get("CustomAttributes"),
    }
    return {
        "Content-Type": parameters.get("ContentType", "application/octet-stream"),
        "X-Amzn-SageMaker-Inference-Id": inference_id,
        **{name: value for name, value in optional.items() if value},
    }


def locations(output_config: dict[str, Any], parameters: dict[str, Any], request_id: str) -> tuple[str, str]:
    """Output and failure location of one request."""
    extension = [part for part in parameters.get("S3OutputPathExtension", "").split("/") if part]
    if ".." in extension:
        raise SageMakerError(_CODE, "S3OutputPathExtension must not leave the output path.")
    filename = parameters.get("Filename")
    output = parse_location(output_config["S3OutputPath"])
    failure = parse_location(output_config.get("S3FailurePath", output_config["S3OutputPath"]))
    stem = filename or request_id
    return (
        output.below(*extension, filename or f"{request_id}.out").uri,
        failure.below(*extension, f"{stem}-error.out").uri,
    )
