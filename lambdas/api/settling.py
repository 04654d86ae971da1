"""What a request for pictures names, looked up: its subjects, their versions, the endpoint that draws them."""

from __future__ import annotations

from typing import NamedTuple

from contracts.errors import InvalidRequest, SubjectNotReady, UnknownSubject
from contracts.generation import GenerationRequest
from contracts.storage import source_prefix
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.table import Hosted, Subjects


class Settled(NamedTuple):
    endpoint_name: str
    version: str
    request: GenerationRequest  # names every version


def settle(asked: GenerationRequest, owner: str, subjects: Subjects, bucket: DataBucket) -> Settled:
    """Raises InvalidRequest, UnknownSubject or SubjectNotReady."""
    if asked.source_image is not None and not _is_uploaded(asked.source_image, owner, bucket):
        raise InvalidRequest("source_image: there is no such picture of yours.", "Upload it; see POST /v1/sources.")
    first = _hosted(subjects, asked.subject)
    _check_dedicated(asked, first)
    version = _version(bucket, first, asked.version)
    mix = []
    for other in asked.mix:
        hosted = _hosted(subjects, other.subject)
        if hosted.hosting == "dedicated":
            raise _alone(hosted, "mix", "draws nobody else")
        if hosted.endpoint_name != first.endpoint_name:
            raise InvalidRequest(
                f"mix: {hosted.subject} belongs to the base model {hosted.base_model}, "
                f"{first.subject} to {first.base_model}.",
                "Mix subjects of one base model.",
            )
        mix.append(other.model_copy(update={"version": _version(bucket, hosted, other.version)}))
    return Settled(first.endpoint_name, version, asked.model_copy(update={"version": version, "mix": mix}))


def _check_dedicated(asked: GenerationRequest, hosted: Hosted) -> None:
    """Its endpoint has one version of one subject, and no network to fetch anything else."""
    if hosted.hosting != "dedicated":
        return
    if asked.mix:
        raise _alone(hosted, "mix", "draws nobody else")
    if asked.source_image is not None:
        raise _alone(hosted, "source_image", "reads no uploaded pictures")
    if asked.version not in (None, hosted.version):
        raise _alone(hosted, "version", f"draws {hosted.version} only")


def _alone(hosted: Hosted, field: str, limit: str) -> InvalidRequest:
    return InvalidRequest(
        f"{field}: {hosted.subject} has an endpoint of its own, which {limit}.",
        f"Leave {field} out, or train the subject with hosting shared.",
    )


def _is_uploaded(key: str, owner: str, bucket: DataBucket) -> bool:
    return key.startswith(source_prefix(owner)) and bucket.exists(key)


def _hosted(subjects: Subjects, name: str) -> Hosted:
    hosted = subjects.hosted(name)
    if hosted:
        return hosted
    known = subjects.one(name)
    if known is None:
        raise UnknownSubject(f"There is no subject {name!r}.")
    if known.status == "deleting":
        raise SubjectNotReady(f"The subject {name!r} is being deleted.", "Draw another subject.")
    if known.error is not None:
        raise SubjectNotReady(f"The newest dataset of {name!r} failed: {known.error.cause}", known.error.cure)
    raise SubjectNotReady(f"The subject {name!r} has no version that can be drawn yet.")


def _version(bucket: DataBucket, hosted: Hosted, wanted: str | None) -> str:
    """The wanted one, else the promoted one. Its model must fit the endpoint that draws the subject."""
    if wanted is None or wanted == hosted.version:
        return hosted.version
    manifest = bucket.version_manifest(hosted.subject, wanted)
    if manifest is None:
        raise UnknownSubject(
            f"There is no version {wanted} of the subject {hosted.subject!r}.",
            "Leave version out for the promoted one.",
        )
    if manifest.artifact.base_model != hosted.base_model:
        raise InvalidRequest(
            f"version: {wanted} of {hosted.subject} belongs to the base model {manifest.artifact.base_model}, "
            f"which is not the one that draws it now, {hosted.base_model}.",
            "Leave version out for the promoted one.",
        )
    return wanted
