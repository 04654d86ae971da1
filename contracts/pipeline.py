"""What travels from state to state, in the order of the states: each model is what its state hands on.

(intake)      DatasetTaken      the execution's input
CheckDataset  DatasetChecked
PlanTraining  TrainingPlanned
Train         ModelTrained      by createTrainingJob.sync, no code of ours
JudgeModel    ModelJudged
PublishModel  VersionPublished
HostModel     VersionHosted     repeated until the endpoint is in service
TellReady     (end)
Recover       Recovery          after any failure: another attempt, or the end
TellFailed    (end)
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Literal, Self

from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field

from contracts.errors import ErrorReport
from contracts.progress import TrainingProgress
from contracts.training import Hosting, TrainingRequest

TrainingCapacity = Literal["on-demand", "spot", "warm-pool"]  # one of them: SageMaker has no warm pools of spot

SUBJECTS_A_PAGE = 500  # each is a few kilobytes at most; a function's answer is 6 MB at most
DELETION_LEASE_SECONDS = 360  # longer than the function lives: nobody else begins while it may be at work


class _Payload(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    def plain(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class TakenFile(_Payload):
    path: str = Field(description="Relative to the dataset.")
    etag: str
    size: int


class TakenManifest(_Payload):
    """manifests/<subject>/<dataset>.json: exactly which objects were taken."""

    subject: str
    dataset_id: str
    files: list[TakenFile]


class DatasetTaken(_Payload):
    subject: str
    dataset_id: str = Field(description="First 12 hex digits of the sha256 over bucket, keys and ETags.")
    run_id: str = Field(description="Also the execution's name and the correlation id.")
    owner: str = Field(
        "", description="The AWS account or service that uploaded the newest file, as S3 says: who pays."
    )


class ImageFinding(_Payload):
    path: str
    format: str | None
    width: int | None
    height: int | None
    problem: str | None = None


class DatasetReport(_Payload):
    """reports/<subject>/<dataset>.json: what the check found, for the person who dropped the photos."""

    subject: str
    dataset_id: str
    accepted: bool
    request: TrainingRequest | None
    images: list[ImageFinding]
    class_images: int
    ignored: list[str] = Field(description="Files that are no part of a dataset; left out of the training.")
    error: ErrorReport | None


class Attempt(_Payload):
    """How the training is to be tried: what Recover changes from one attempt to the next."""

    attempt: int = Field(1, ge=1, description="Which attempt is to be planned; Recover counts it up.")
    ladder_rung: int = Field(0, ge=0, description="Index into the deployment's instance types.")
    ladder: int = Field(0, ge=0, description="How often every instance type has been tried already.")
    memory_tier: int = Field(0, ge=0, description="0: as asked. Each tier further saves memory for speed.")
    on_demand: bool = Field(False, description="Whatever the deployment's capacity is.")
    without_quota: list[str] = Field([], description="Quotas that are 0 in this account.")
    quota_in_use: bool = Field(False, description="On this ladder some quota was not 0, but in use: it is not counted.")
    failures: dict[str, int] = Field({}, description="Codes of the failed attempts -> how often.")


class DatasetChecked(DatasetTaken, Attempt):
    request: TrainingRequest
    instance_images: int
    class_images: int
    ignored: list[str]


class Price(_Payload):
    """What an hour of an instance costs on demand, according to a table of that date."""

    dollars_an_hour: float
    region: str
    date: date


class Quote(_Payload):
    instance_type: str
    price: Price | None = None
    steps: int
    seconds: int = Field(description="Estimate of the billed seconds.")
    dollars: float = Field(description="seconds x the hourly price of the instance type.")
    limit_seconds: int = Field(description="MaxRuntimeInSeconds.")
    limit_dollars: float = Field(description="The most that can be billed, the wait of a warm pool included.")


class JobReceipt(_Payload):
    """What one training job was billed for: one attempt, whether it gave a model or not."""

    attempt: int
    instance_type: str
    spot: bool = False
    price: Price | None = Field(description="null where nobody bills: on your own machine.")
    training_seconds: int = Field(description="On the clock.")
    billable_seconds: int = Field(description="Billed at the price; for spot less than the training's seconds.")
    warm_seconds: int = Field(
        0, description="Most that the instance waits for a next job afterwards, and is billed for."
    )
    dollars: float = Field(description="(billable_seconds + warm_seconds) x price.")
    saved_dollars: float = Field(0, description="By spot: (training_seconds - billable_seconds) x price.")


class Receipt(_Payload):
    """What a run was billed for. Sums over its jobs."""

    training_seconds: int
    billable_seconds: int
    dollars: float
    saved_dollars: float
    saved_percent: float = Field(description="Of what the training would have cost on demand.")
    jobs: list[JobReceipt]

    @classmethod
    def of(cls, jobs: list[JobReceipt]) -> Self:
        dollars, saved = sum(job.dollars for job in jobs), sum(job.saved_dollars for job in jobs)
        return cls(
            training_seconds=sum(job.training_seconds for job in jobs),
            billable_seconds=sum(job.billable_seconds for job in jobs),
            dollars=round(dollars, 4),
            saved_dollars=round(saved, 4),
            saved_percent=round(100 * saved / (dollars + saved), 1) if saved else 0.0,
            jobs=jobs,
        )


class TrainingPlanned(DatasetChecked):
    version: str
    job_name: str
    capacity: TrainingCapacity = Field("on-demand", description="Of this attempt.")
    quote: Quote
    training_job: dict[str, Any] = Field(description="The CreateTrainingJob request, whole.")


class ModelTrained(TrainingPlanned):
    artifact_uri: str = Field(description="s3:// prefix of the model, as DescribeTrainingJob names it.")
    training_seconds: int = 0
    billable_seconds: int | None = None


class ModelJudged(ModelTrained):
    artifact_prefix: str = Field(description="Key prefix in the data bucket; ends with a slash.")


class VersionPublished(ModelJudged):
    pass


class VersionHosted(VersionPublished):
    endpoint_name: str
    endpoint_status: str = Field(description="As DescribeEndpoint says: Creating, Updating, InService, ...")
    endpoint_changed: bool = Field(False, description="By this run: it asked SageMaker to create or update it.")
    endpoint_failures: int = Field(0, description="How often this run found no instance for it.")


class CaughtError(_Payload):
    """$states.errorOutput of a Catch."""

    Error: str
    Cause: str = ""


class FailedState(DatasetTaken, Attempt):
    """Input of Recover: what the failed state was given, plus the error. The rest depends on how far the run got."""

    error: CaughtError
    training_job: dict[str, Any] | None = None
    artifact_uri: str | None = None

    @property
    def tried(self) -> Attempt:
        return Attempt.model_validate(self.model_dump(include=set(Attempt.model_fields)))


class Recovery(Attempt):
    """What Recover decides, laid over the failed state's payload: the next attempt to plan, or the failure to tell."""

    retry: bool
    wait_seconds: int = Field(0, ge=0, description="Before the next attempt is planned.")
    failure: ErrorReport | None = None


class RunFailed(DatasetTaken):
    """Input of TellFailed."""

    failure: ErrorReport


Stage = Literal["taken", "checking", "planning", "training", "judging", "publishing", "hosting", "ready", "failed"]
RunStatus = Literal["running", "succeeded", "failed"]
SubjectStatus = Literal["running", "succeeded", "failed", "deleting"]


class StageEntry(_Payload):
    stage: Stage
    at: datetime


class Run(_Payload):
    """One dataset on its way; a row of the table and a part of GET /v1/subjects/{subject}."""

    id: str
    dataset_id: str
    status: RunStatus
    stage: Stage
    stages: list[StageEntry] = Field(description="When each stage was entered; a retry enters some again.")
    uploaded_at: datetime | None = Field(None, description="When the newest file of the dataset came, as S3 says.")
    version: str | None = None
    attempt: int | None = None
    quote: Quote | None = None
    receipt: Receipt | None = None
    ignored: list[str] = []
    progress: TrainingProgress | None = None
    error: ErrorReport | None = None


class Subject(_Payload):
    """An element of GET /v1/subjects; with `run` the answer of GET /v1/subjects/{subject}."""

    subject: str
    ready: bool = Field(description="Some version can be drawn now.")
    version: str | None = Field(None, description="The version that is served.")
    base_model: str | None = None
    instance_prompt: str | None = None
    hosting: Hosting | None = Field(None, description="By which kind of endpoint it is drawn.")
    status: SubjectStatus = Field(description="Of the newest run; deleting: from DELETE until nothing is left.")
    updated_at: datetime
    error: ErrorReport | None = Field(None, description="Why the newest run failed, or why there is none.")
    run: Run | None = None


class SubjectPage(_Payload):
    """Answer of GET /v1/subjects: in the order of their names, at most SUBJECTS_A_PAGE."""

    subjects: list[Subject]
    next: str | None = Field(None, description="What `after` is to be for the next page; null on the last.")


class SubjectEvent(_Payload):
    """Message on the subject topic: a subject is ready, or a run failed."""

    event: Literal["subject.ready", "subject.failed"]
    subject: str
    run_id: str
    version: str | None = None
    receipt: Receipt | None = Field(None, description="What the run has been billed for; null when no job has ended.")
    error: ErrorReport | None = None
    link: str = Field(description="Path of the subject in the API.")


class DeletionRequested(_Payload):
    """Message on the deletion queue."""

    subject: str


class EndpointNotice(_Payload):
    """Message on the hosting queue: an endpoint is to be looked at. EventBridge's own events are read as such, too."""

    endpoint_name: str = Field(validation_alias=AliasChoices("endpoint_name", AliasPath("detail", "EndpointName")))
    subject: str | None = Field(None, description="Who waits for it: if there is no such endpoint, it is made again.")


class Deletion(_Payload):
    """What stays of a deleted subject: a row of the table."""

    subject: str
    requested_at: datetime
    requested_by: str = Field(description="The authenticated principal.")
    finished_at: datetime
    objects: int = Field(description="Deleted from the bucket, former versions and delete markers counted.")
