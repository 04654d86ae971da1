"""Requests against botocore's service models: members, types, lengths, patterns and enumerations, as in AWS."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from botocore.loaders import Loader
from botocore.model import ListShape, MapShape, OperationModel, Shape, StringShape, StructureShape
from botocore.model import ServiceModel as BotocoreServiceModel
from botocore.validate import ParamValidator

from dreamdrop.local.sagemaker.errors import SageMakerError

# The service models speak Java's dialect of regular expressions.
_DIALECT = (
    (r"[\p{Print}]", r"[\x20-\x7e]"),
    (r"\p{Print}", r"[\x20-\x7e]"),
    (r"\p{Alnum}", "A-Za-z0-9"),
    (r"\p{L}", r"\w"),
    (r"\p{Z}", r"\s"),
    (r"\p{N}", r"\d"),
    (r"\p{ASCII}", r"[\x00-\x7f]"),
    (r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010FFFF"),
    (r"\z", r"\Z"),
)


@functools.cache
def service_model(service: str) -> BotocoreServiceModel:
    return BotocoreServiceModel(Loader().load_service_model(service, "service-2"), service)


def operation_model(service: str, operation: str) -> OperationModel:
    return service_model(service).operation_model(operation)


def check_request(service: str, operation: str, body: dict[str, Any], code: str = "ValidationException") -> None:
    """Raises SageMakerError(code) naming every member that breaks the operation's input shape."""
    shape = operation_model(service, operation).input_shape
    if shape is None:
        return
    report = ParamValidator().validate(body, shape)
    if report.has_errors():
        raise SageMakerError(code, f"Parameter validation failed: {report.generate_report()}")
    broken = list(_broken_constraints(shape, body, ""))
    if broken:
        noun = "error" if len(broken) == 1 else "errors"
        raise SageMakerError(code, f"{len(broken)} validation {noun} detected: {'; '.join(broken)}")


def _broken_constraints(shape: Shape, value: Any, path: str) -> Iterator[str]:
    if isinstance(shape, StructureShape):
        for name, member in value.items():
            yield from _broken_constraints(shape.members[name], member, f"{path}.{name}" if path else name)
    elif isinstance(shape, ListShape):
        yield from _out_of_bounds(shape, len(value), value, path)
        for index, member in enumerate(value):
            yield from _broken_constraints(shape.member, member, f"{path}[{index}]")
    elif isinstance(shape, MapShape):
        yield from _out_of_bounds(shape, len(value), value, path)
        for key, member in value.items():
            yield from _broken_constraints(shape.key, key, f"{path} (key)")
            yield from _broken_constraints(shape.value, member, f"{path}.{key}")
    elif isinstance(shape, StringShape):
        yield from _broken_string(shape, value, path)
    elif shape.type_name == "blob" and isinstance(value, bytes | str):  # a stream has no length yet
        yield from _out_of_bounds(shape, len(value), "<bytes>", path)
    elif shape.type_name in ("integer", "long", "float", "double"):
        yield from _out_of_bounds(shape, value, value, path)


def _broken_string(shape: StringShape, value: str, path: str) -> Iterator[str]:
    yield from _out_of_bounds(shape, len(value), value, path)
    if shape.enum and value not in shape.enum:
        yield f"Value '{value}' at '{path}' failed to satisfy constraint: Member must satisfy enum value set"
    pattern = shape.metadata.get("pattern")
    if pattern and not compile_pattern(pattern).fullmatch(value):
        yield (
            f"Value '{value[:200]}' at '{path}' failed to satisfy constraint: "
            f"Member must satisfy regular expression pattern: {pattern}"
        )


def _out_of_bounds(shape: Shape, size: float, value: Any, path: str) -> Iterator[str]:
    what = "value" if isinstance(value, (int, float)) else "length"
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and size < low:
        yield f"Value '{_short(value)}' at '{path}' failed to satisfy constraint: Member must have {what} >= {low}"
    if high is not None and size > high:
        yield f"Value '{_short(value)}' at '{path}' failed to satisfy constraint: Member must have {what} <= {high}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


@functools.cache
def compile_pattern(pattern: str) -> re.Pattern[str]:
    for java, python in _DIALECT:
        pattern = pattern.replace(java, python)
    return re.compile(pattern)
