"""Every failure Dreamdrop reports: a code, an HTTP status, a cause and a cure in plain words.

    DreamdropError
    ├── CallerError                 the caller can mend it; never retried
    │   ├── InvalidRequest          400  invalid_request
    │   ├── Unauthenticated         401  unauthenticated
    │   ├── UnknownSubject          404  unknown_subject
    │   ├── UnknownGeneration       404  unknown_generation
    │   ├── SubjectNotReady         409  subject_not_ready
    │   ├── GenerationEnded         409  generation_ended
    │   ├── IdempotencyConflict     409  idempotency_conflict
    │   ├── PromptRejected          422  prompt_rejected
    │   ├── InvalidSubjectName      422  invalid_subject_name
    │   ├── EmptyDataset            422  empty_dataset
    │   ├── UnreadableImage         422  unreadable_image
    │   ├── ImageTooLarge           422  image_too_large
    │   ├── TooManyImages           422  too_many_images
    │   ├── InvalidDatasetInfo      422  invalid_dataset_info
    │   ├── InvalidFileName         422  invalid_file_name
    │   ├── DatasetChanged          409  dataset_changed
    │   ├── UnknownBaseModel        422  unknown_base_model
    │   ├── InvalidBaseModel        422  invalid_base_model
    │   ├── InvalidPreviousModel    422  invalid_previous_model
    │   ├── OverBudget              422  over_budget
    │   └── DailyBudgetReached      422  daily_budget_reached
    ├── TrainingError               the training job did not give a usable model
    │   ├── OutOfMemory             retryable, one memory tier lower     out_of_memory
    │   ├── OutOfDisk               out_of_disk
    │   ├── NoCapacity              retryable, next rung of the ladder   no_capacity
    │   ├── QuotaExceeded           retryable, next rung of the ladder   quota_exceeded
    │   ├── SpotReclaimed           retryable, from the checkpoint       spot_reclaimed
    │   ├── SageMakerFailed         retryable, after a pause             sagemaker_failed
    │   ├── TrainingKilled          retryable once                       training_killed
    │   ├── TrainingTimedOut        time_limit
    │   ├── TrainingStopped         training_stopped
    │   ├── TrainingDiverged        training_diverged
    │   ├── TrainingCrashed         training_crashed
    │   └── ModelRejected           model_rejected
    └── ServiceError                our fault: logged, 5xx, retried or dead-lettered
        ├── HostingFailed           hosting_failed
        ├── GenerationFailed        generation_failed
        ├── EndpointBusy            503, the same request may be sent again   endpoint_busy
        ├── Unavailable             503, retried by the state machine   unavailable
        ├── GenerationExpired       generation_expired
        ├── Interrupted             interrupted
        └── InternalError           internal_error

An error crosses process boundaries (a Lambda's errorMessage, a training job's FailureReason) as its text,
``code: cause Cure: cure``; `parse_error` reads it back.
"""

from __future__ import annotations

import re
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field


class ErrorReport(BaseModel):
    """What a caller is told about a failure."""

    model_config = ConfigDict(frozen=True)

    code: str = Field(description="Stable, machine-readable name of the failure.")
    cause: str = Field(description="What went wrong, in one sentence.")
    cure: str = Field(description="What to do about it, in one sentence.")


class DreamdropError(Exception):
    """Base of every failure with a code. `status` is the HTTP status it becomes."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    default_cure: ClassVar[str] = "Try again; if it persists, look up the correlation id in the logs."

    def __init__(self, cause: str, cure: str | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.cure = cure or self.default_cure

    def __str__(self) -> str:
        return f"{self.code}: {self.cause} Cure: {self.cure}"

    @property
    def report(self) -> ErrorReport:
        return ErrorReport(code=self.code, cause=self.cause, cure=self.cure)


class CallerError(DreamdropError):
    status = 400


class InvalidRequest(CallerError):
    code = "invalid_request"
    default_cure = "Correct the named field and send the request again."


class Unauthenticated(CallerError):
    code = "unauthenticated"
    status = 401
    default_cure = "Sign the request with AWS credentials (SigV4) or send a token of the configured issuer."


class UnknownSubject(CallerError):
    code = "unknown_subject"
    status = 404
    default_cure = "List the subjects with GET /v1/subjects, or upload a dataset for this one first."


class UnknownGeneration(CallerError):
    code = "unknown_generation"
    status = 404
    default_cure = "Use the id that POST /v1/generations returned to you; finished generations are kept 30 days."


class SubjectNotReady(CallerError):
    code = "subject_not_ready"
    status = 409
    default_cure = "Wait until GET /v1/subjects/{subject} says ready, then ask again."


class PromptRejected(CallerError):
    code = "prompt_rejected"
    status = 422
    default_cure = "Ask for something else, or ask whoever runs this deployment for the words that it blocks."


class GenerationEnded(CallerError):
    code = "generation_ended"
    status = 409
    default_cure = "There is nothing left to cancel: GET the generation to see how it ended."


class IdempotencyConflict(CallerError):
    code = "idempotency_conflict"
    status = 409
    default_cure = "Use a new Idempotency-Key for a different request."


class InvalidSubjectName(CallerError):
    code = "invalid_subject_name"
    status = 422
    default_cure = "Upload to datasets/<name>/ with a name of 1 to 32 lower-case letters, digits and single hyphens."


class EmptyDataset(CallerError):
    code = "empty_dataset"
    status = 422
    default_cure = "Upload at least one PNG, JPEG, WebP or HEIC photo of the subject to the top level of the dataset."


class UnreadableImage(CallerError):
    code = "unreadable_image"
    status = 422
    default_cure = (
        "Export the named files again as PNG or JPEG, 2,000 pixels a side are plenty, and upload them; "
        "or delete them, then upload any file again."
    )


class ImageTooLarge(CallerError):
    code = "image_too_large"
    status = 422
    default_cure = "Scale the named files down and upload them again; 2,000 pixels a side are plenty."


class TooManyImages(CallerError):
    code = "too_many_images"
    status = 422
    default_cure = "Delete all but the best photos, five to twenty are enough, then upload any file again."


class InvalidDatasetInfo(CallerError):
    code = "invalid_dataset_info"
    status = 422
    default_cure = (
        'Upload a dataset_info.json such as {"instance_prompt": "a photo of sks dog", '
        '"class_prompt": "a photo of a dog"}, or none at all.'
    )


class InvalidFileName(CallerError):
    code = "invalid_file_name"
    status = 422
    default_cure = (
        "Rename the named files: at most 255 bytes, no '..' or empty part, no backslash or control character."
    )


class DatasetChanged(CallerError):
    code = "dataset_changed"
    status = 409
    default_cure = "Nothing to do after an upload, which is taken by itself; after a deletion, upload any file again."


class UnknownBaseModel(CallerError):
    code = "unknown_base_model"
    status = 422
    default_cure = (
        "Import it first (dreamdrop import-base DIRECTORY --id ID), then upload any file of the dataset again."
    )


class InvalidBaseModel(CallerError):
    code = "invalid_base_model"
    status = 422
    default_cure = "Import the base model again: dreamdrop import-base DIRECTORY --id ID."


class InvalidPreviousModel(CallerError):
    code = "invalid_previous_model"
    status = 422
    default_cure = "Let continue_from name a ready subject that was trained on the same base model, or leave it out."


class OverBudget(CallerError):
    code = "over_budget"
    status = 422
    default_cure = "Ask for fewer steps, or raise training_budget_dollars in the settings; then upload any file again."


class DailyBudgetReached(CallerError):
    code = "daily_budget_reached"
    status = 422
    default_cure = (
        "Upload any file of the dataset again after midnight UTC, or when trainings that run have ended and given back "
        "what they did not need; or raise daily_budget_dollars in the settings."
    )


class TrainingError(DreamdropError):
    pass


class OutOfMemory(TrainingError):
    code = "out_of_memory"
    retryable = True
    default_cure = "Use method lora, a smaller resolution or batch_size 1, or a larger instance."


class OutOfDisk(TrainingError):
    code = "out_of_disk"
    default_cure = "Use method lora, fewer class images or a smaller base model, or an instance with a larger disk."


class NoCapacity(TrainingError):
    code = "no_capacity"
    retryable = True
    default_cure = (
        "Upload any file of the dataset again later, or add instance types to training_instance_types in the settings."
    )


class QuotaExceeded(TrainingError):
    code = "quota_exceeded"
    retryable = True
    default_cure = (
        "Ask for a larger quota in AWS's Service Quotas (service Amazon SageMaker, quota '<instance type> for training "
        "job usage'), or name other instance types in training_instance_types; then upload any file again."
    )


class SpotReclaimed(TrainingError):
    code = "spot_reclaimed"
    retryable = True
    default_cure = "Upload any file of the dataset again, or set training_capacity to on-demand in the settings."


class SageMakerFailed(TrainingError):
    code = "sagemaker_failed"
    retryable = True
    default_cure = "Upload any file of the dataset again; if it persists, look at AWS's health dashboard."


class TrainingKilled(TrainingError):
    code = "training_killed"
    retryable = True
    default_cure = "Use an instance with more memory, or a smaller dataset."


class TrainingTimedOut(TrainingError):
    code = "time_limit"
    default_cure = "Ask for fewer steps, or raise training_max_seconds in the settings; then upload any file again."


class TrainingStopped(TrainingError):
    code = "training_stopped"
    default_cure = "Upload any file of the dataset again to train it again."


class TrainingDiverged(TrainingError):
    code = "training_diverged"
    default_cure = "Use a lower learning_rate."


class TrainingCrashed(TrainingError):
    code = "training_crashed"
    default_cure = "Read the log of the training job; if the dataset is sound, report a defect."


class ModelRejected(TrainingError):
    code = "model_rejected"
    default_cure = (
        "Train with other photos, fewer steps or a lower learning_rate; the previous version goes on serving."
    )


class ServiceError(DreamdropError):
    pass


class HostingFailed(ServiceError):
    code = "hosting_failed"
    default_cure = "Read the log of the endpoint; check the quota for the endpoint's instance type."


class GenerationFailed(ServiceError):
    code = "generation_failed"
    default_cure = "Try again; if it persists, read the log of the endpoint."


class EndpointBusy(ServiceError):
    code = "endpoint_busy"
    status = 503
    retryable = True
    default_cure = "Send the request again with the same Idempotency-Key in a few seconds."


class Unavailable(ServiceError):
    """A service of AWS that throttles, fails or does not answer, for longer than a function can wait."""

    code = "unavailable"
    status = 503
    retryable = True
    default_cure = "Try again in a minute; a dataset is tried again when any file of it is uploaded again."


class GenerationExpired(ServiceError):
    code = "generation_expired"
    default_cure = "Ask again; the endpoint did not get to the request in time."


class Interrupted(ServiceError):
    code = "interrupted"
    default_cure = "Upload any file of the dataset again to train it again."


class InternalError(ServiceError):
    code = "internal_error"


def _tree(root: type[DreamdropError]) -> list[type[DreamdropError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _tree(child))]


ERRORS_BY_CODE: dict[str, type[DreamdropError]] = {
    error.code: error for error in _tree(DreamdropError) if "code" in vars(error)
}

_TEXT = re.compile(
    rf"\b(?P<code>{'|'.join(map(re.escape, ERRORS_BY_CODE))}): (?P<cause>.*?)(?: Cure: (?P<cure>.*))?$", re.DOTALL
)


def parse_error(text: str) -> DreamdropError | None:
    """Reads an error back from its text, also when it is wrapped or cut short. None if there is none in it."""
    found = _TEXT.search(text)
    if not found:
        return None
    cure = (found["cure"] or "").strip()
    return ERRORS_BY_CODE[found["code"]](found["cause"].strip(), cure or None)
