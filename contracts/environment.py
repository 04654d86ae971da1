"""The environment variables of each function: infra/ builds these models, the handlers parse them back."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from contracts.pipeline import TrainingCapacity
from contracts.training import Hosting


def _split(value: Any) -> Any:
    return [part for part in value.split(",") if part] if isinstance(value, str) else value


Texts = Annotated[list[str], BeforeValidator(_split)]


class _Environment(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    def to_variables(self) -> dict[str, str]:
        """Field names in capitals; lists joined by commas. What is empty is left out."""
        texts = {
            name.upper(): ",".join(value) if isinstance(value, list) else str(value)
            for name, value in self.model_dump().items()
        }
        return {name: text for name, text in texts.items() if text}

    @classmethod
    def from_variables(cls, variables: dict[str, str]) -> Self:
        """Raises pydantic.ValidationError naming every missing or malformed variable."""
        return cls.model_validate({name.lower(): value for name, value in variables.items()})


class StoreEnvironment(_Environment):
    """Every function has these."""

    data_bucket: str
    table_name: str


class IntakeEnvironment(StoreEnvironment):
    state_machine_arn: str
    subject_topic_arn: str


class CheckEnvironment(StoreEnvironment):
    default_base_model: str
    default_hosting: Hosting


class TrainingEnvironment(StoreEnvironment):
    """Of the functions that see a training job end."""

    training_is_billed: bool


class SettleEnvironment(TrainingEnvironment):
    resource_prefix: str


class PlanEnvironment(TrainingEnvironment):
    resource_prefix: str
    training_image: str
    training_role_arn: str
    training_instance_types: Texts = Field(min_length=1)
    training_capacity: TrainingCapacity
    training_wait_seconds: int
    training_keep_alive_seconds: int
    training_pause_seconds: int
    training_max_seconds: int
    training_budget_dollars: float = Field(description="Of one run, all its attempts together.")
    daily_budget_dollars: float = Field(description="Of one owner's runs.")
    output_key_arn: str = Field("", description="Encrypts what the job writes; empty: a key of AWS.")


class HostEnvironment(StoreEnvironment):
    resource_prefix: str
    inference_image: str
    inference_role_arn: str
    inference_instance_type: str
    inference_max_instances: int
    inference_success_topic_arn: str
    inference_error_topic_arn: str
    alarm_topic_arn: str
    hosting_queue_url: str
    sleep_after_creation: bool
    blocked_words: Texts = []
    watermark: str = ""
    subnet_ids: Texts = Field([], description="Of the network that containers are in; none: SageMaker's own.")
    security_group_ids: Texts = []
    output_key_arn: str = Field("", description="Encrypts the endpoints' answers; empty: a key of AWS.")
    volume_key_arn: str = Field("", description="Encrypts the volumes of instances that have one; empty: a key of AWS.")


class RemovalEnvironment(StoreEnvironment):
    resource_prefix: str
    state_machine_arn: str
    in_flight_seconds: int = Field(description="For so long a step may go on whose execution was stopped.")
    training_role_arn: str
    inference_role_arn: str
    security_group_id: str = Field("", description="Of the endpoints' network interfaces, which are to go with them.")


class TellEnvironment(StoreEnvironment):
    subject_topic_arn: str


class CloseEnvironment(TellEnvironment):
    resource_prefix: str


class DeletionEnvironment(StoreEnvironment):
    resource_prefix: str
    state_machine_arn: str
    deletion_queue_url: str


class ApiEnvironment(StoreEnvironment):
    url_lifetime_seconds: int
    deletion_queue_url: str
    hosting_queue_url: str
    blocked_words: Texts = []
    oidc_issuer: str = Field("", description="Whose tokens callers show; empty: they sign their requests.")
