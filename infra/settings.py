"""Everything that differs between the environments, typed and frozen. Nothing here reads the machine."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from aws_cdk import RemovalPolicy
from aws_cdk.aws_logs import RetentionDays

from contracts.pipeline import TrainingCapacity
from contracts.storage import MAX_RESOURCE_PREFIX_LENGTH, RESOURCE_PREFIX_PATTERN
from contracts.training import Hosting

HOUR = 3600
TRAINING_SLACK_SECONDS = HOUR // 2  # the limits of SageMaker stop a job; this ends what they did not
SHORTEST_WAIT_SECONDS = 1800  # CreateTrainingJob, MaxPendingTimeInSeconds
LONGEST_KEEP_ALIVE_SECONDS = 3600  # https://docs.aws.amazon.com/sagemaker/latest/dg/train-warm-pools.html
ISSUER_PATTERN = r"https://[^\s?#]+"
LONGEST_VARIABLE_BYTES = 1024  # of a container's environment: CreateModel, EnvironmentValue

# All have 16 GB of GPU memory or more. The next rung is taken when one has no capacity or no quota.
TRAINING_INSTANCE_TYPES = ("ml.g5.xlarge", "ml.g5.2xlarge", "ml.g4dn.xlarge", "ml.g6.xlarge")


# Families whose storage is a volume, which a key can be named for; the others bring disks that encrypt themselves.
VOLUME_FAMILIES = ("c4", "c5", "c6i", "c7i", "m4", "m5", "m6i", "m7i", "p2", "p3", "r5", "t2")


class UnusableSettings(ValueError):
    """The message names the cure."""


@dataclass(frozen=True, kw_only=True)
class Throttling:
    """Requests a second, and how many may come at once: of all callers together."""

    rate: int
    burst: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    prefix: str = "dreamdrop"
    """Starts the name of everything that is created at run time."""

    quiet_period_seconds: int
    """A dataset is taken when nothing has arrived for so long. Delay of an SQS message: at most 900."""

    default_base_model: str
    hosting: Hosting = "shared"
    """Of subjects whose dataset_info.json leaves it open. dedicated: an endpoint a subject, without a network."""

    training_instance_types: tuple[str, ...] = TRAINING_INSTANCE_TYPES
    training_capacity: TrainingCapacity = "on-demand"
    """How training instances are bought. spot: what AWS has left over, up to 90 % cheaper by its own account; a job
    may be reclaimed, and goes on from its checkpoint. warm-pool: the instance waits for the next job, which then starts
    in seconds; it is billed while it waits. Both have quotas of their own, in a new account 0 ("... for spot training
    job usage", "... for training warm pool usage")."""

    training_wait_seconds: int = HOUR
    """Longest wait of a training job for an instance; a spot job's waits after reclaims count too."""

    training_keep_alive_seconds: int = 600
    """How long the instance of a warm pool waits, billed, for the next job."""

    training_pause_seconds: int = 30
    """Shortest pause between two attempts at a training. Thirty times as long when no instance type is to be had."""

    training_max_seconds: int
    """MaxRuntimeInSeconds of one training job."""

    training_budget_dollars: float
    """Of one run, all its attempts together: it becomes their time limits. A training that is estimated above it is
    refused."""

    daily_budget_dollars: float
    """Of all runs of one owner, which is the AWS account that uploads, from midnight to midnight UTC. A training
    reserves the most that it can be billed for, and gives back what it did not need."""

    training_is_billed: bool = True

    machine_timeout_seconds: int
    """One execution in all: every attempt at training, and the endpoint's start."""

    inference_instance_type: str = "ml.g5.xlarge"
    inference_max_instances: int
    endpoint_poll_seconds: int
    sleep_after_creation: bool = True
    """An endpoint that nobody asks may never see a metric that would let it sleep, and is billed by the second."""

    private_hosting: bool = False
    """Endpoints run in a network of their own, from which S3 alone can be reached, and there the data bucket alone.
    Costs nothing but the cents of its flow log. docs/security.md says what stays possible."""

    oidc_issuer: str = ""
    """Who may call: holders of a token (JWT) of this OpenID Connect issuer, as its `iss` says, instead of principals of
    the account. Costs nothing."""

    oidc_audience: tuple[str, ...] = ()
    """What such a token's `aud` (or `client_id`) must name one of."""

    blocked_words: tuple[str, ...] = ()
    """A prompt with one of these words or phrases is refused: by the API from the deployment on, by an endpoint that
    is asked itself from the next training on."""

    watermark: str = ""
    """Text in the lower right corner of every picture, from the next training on; none when empty."""

    url_lifetime_seconds: int = HOUR
    read_throttling: Throttling
    """Of all routes that only read, the page among them."""

    write_throttling: Throttling
    """Of each route that asks for something to be made or deleted: those are the ones that cost."""

    customer_key: bool
    """A key of your own in KMS for everything at rest, which you can take away from everybody, and whose use CloudTrail
    records. $1 a month, and cents for its requests; without it AWS's own keys encrypt, for nothing."""

    versioned_data: bool
    access_logs: bool
    """Who read or wrote which object of the data bucket, in a bucket of its own, for 90 days. Costs its storage."""

    data_removal: RemovalPolicy
    """What becomes of photos, models and rows when the data stack is deleted."""

    log_removal: RemovalPolicy
    log_retention: RetentionDays
    termination_protection: bool

    @property
    def inference_has_volume(self) -> bool:
        return self.inference_instance_type.split(".")[1] in VOLUME_FAMILIES

    @property
    def longest_training_seconds(self) -> int:
        """Of one job: its wait for an instance, its run, and what SageMaker needs to start, to stop and to upload."""
        return self.training_wait_seconds + self.training_max_seconds + TRAINING_SLACK_SECONDS

    def __post_init__(self) -> None:
        """Raises ValueError for what would reach functions and containers cut short or as something else."""
        if unusable := [word for word in self.blocked_words if not word.strip() or "," in word]:
            raise ValueError(
                f"blocked_words: {unusable} are empty or hold a comma. Name each word or phrase by itself."
            )
        if self.daily_budget_dollars < self.training_budget_dollars:
            raise ValueError(
                "daily_budget_dollars: less than training_budget_dollars, so that no day has room for a run."
            )
        if self.machine_timeout_seconds <= self.longest_training_seconds:
            raise ValueError(
                f"machine_timeout_seconds: one training may take {self.longest_training_seconds} s, a run needs more."
            )
        if self.training_wait_seconds < SHORTEST_WAIT_SECONDS:
            raise ValueError(f"training_wait_seconds: SageMaker takes {SHORTEST_WAIT_SECONDS} or more.")
        if not 1 <= self.training_keep_alive_seconds <= LONGEST_KEEP_ALIVE_SECONDS:
            raise ValueError(f"training_keep_alive_seconds: SageMaker takes 1 to {LONGEST_KEEP_ALIVE_SECONDS}.")
        if bool(self.oidc_issuer) != any(self.oidc_audience):
            raise ValueError("oidc_issuer, oidc_audience: set both, or neither for signed requests.")
        if self.oidc_issuer and not re.fullmatch(ISSUER_PATTERN, self.oidc_issuer):
            raise ValueError(f"oidc_issuer: {self.oidc_issuer!r} is not an https address without query and fragment.")
        for name, text in (("blocked_words", ",".join(self.blocked_words)), ("watermark", self.watermark)):
            if len(text.encode()) > LONGEST_VARIABLE_BYTES:
                raise ValueError(f"{name}: {len(text.encode())} bytes are too many; at most {LONGEST_VARIABLE_BYTES}.")


LOCAL = Settings(
    quiet_period_seconds=2,
    default_base_model="toyworld",
    training_wait_seconds=2 * HOUR,
    training_pause_seconds=1,
    training_max_seconds=HOUR // 2,
    training_budget_dollars=5,
    daily_budget_dollars=5,
    training_is_billed=False,
    machine_timeout_seconds=4 * HOUR,
    inference_max_instances=1,
    endpoint_poll_seconds=1,
    sleep_after_creation=False,
    read_throttling=Throttling(rate=100, burst=200),
    write_throttling=Throttling(rate=50, burst=100),
    customer_key=False,
    versioned_data=False,
    access_logs=False,
    data_removal=RemovalPolicy.DESTROY,
    log_removal=RemovalPolicy.DESTROY,
    log_retention=RetentionDays.ONE_DAY,
    termination_protection=False,
)

SANDBOX = Settings(
    quiet_period_seconds=60,
    default_base_model="stable-diffusion-2-1-base",
    training_max_seconds=3 * HOUR,
    training_budget_dollars=5,
    daily_budget_dollars=20,
    machine_timeout_seconds=24 * HOUR,
    inference_max_instances=1,
    endpoint_poll_seconds=20,
    read_throttling=Throttling(rate=10, burst=20),
    write_throttling=Throttling(rate=2, burst=10),
    customer_key=False,
    versioned_data=False,
    access_logs=False,
    data_removal=RemovalPolicy.RETAIN,
    log_removal=RemovalPolicy.DESTROY,
    log_retention=RetentionDays.ONE_MONTH,
    termination_protection=False,
)

PRODUCTION = replace(
    SANDBOX,
    quiet_period_seconds=120,
    training_budget_dollars=20,
    daily_budget_dollars=100,
    inference_max_instances=4,
    read_throttling=Throttling(rate=50, burst=100),
    write_throttling=Throttling(rate=10, burst=20),
    customer_key=True,
    versioned_data=True,
    access_logs=True,
    log_removal=RemovalPolicy.RETAIN,
    log_retention=RetentionDays.SIX_MONTHS,
    termination_protection=True,
)

ENVIRONMENTS = {"local": LOCAL, "sandbox": SANDBOX, "production": PRODUCTION}


def settings_for(environment: str, prefix: str) -> Settings:
    """Raises UnusableSettings for an environment or a prefix that cannot be used."""
    if environment not in ENVIRONMENTS:
        raise UnusableSettings(f"There is no environment {environment!r}. Use one of: {', '.join(ENVIRONMENTS)}.")
    if len(prefix) > MAX_RESOURCE_PREFIX_LENGTH or not re.fullmatch(RESOURCE_PREFIX_PATTERN, prefix):
        raise UnusableSettings(
            f"The prefix {prefix!r} is not usable. Use at most {MAX_RESOURCE_PREFIX_LENGTH} lower-case letters, "
            "digits and single hyphens; start with a letter."
        )
    return replace(ENVIRONMENTS[environment], prefix=prefix)
