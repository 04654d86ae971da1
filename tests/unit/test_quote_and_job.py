"""lambdas/domain/pricing.py and training_job.py: the price before the start, and a request SageMaker accepts."""

from __future__ import annotations

from typing import Any, get_args

import botocore.session
import pytest
from botocore.validate import ParamValidator

from contracts.errors import InternalError, OverBudget
from contracts.generation import CONCURRENT_INVOCATIONS
from contracts.pipeline import DatasetChecked, Price, Receipt, TrainingCapacity
from contracts.training import Hyperparameters, TrainingRequest
from infra.settings import VOLUME_FAMILIES
from lambdas.domain.endpoints import EndpointPlan
from lambdas.domain.pricing import INSTANCES, PRICE_DATE, PRICE_REGION, job_receipt, quote
from lambdas.domain.training_job import Instance, training_job

KEY = "arn:aws:kms:us-east-1:123456789012:key/0"
NETWORK = {"subnet_ids": ("subnet-1", "subnet-2"), "security_group_ids": ("sg-1",)}


def price(wanted: Hyperparameters, **more: float):  # type: ignore[no-untyped-def]
    limits = {"max_seconds": 10_800, "budget_dollars": 5.0, **more}
    return quote(wanted, instance_type="ml.g5.xlarge", instance_images=5, class_images=0, **limits)  # type: ignore[arg-type]


def test_more_steps_cost_more() -> None:
    assert price(Hyperparameters(max_steps=2000)).dollars > price(Hyperparameters(max_steps=200)).dollars


def test_learning_words_first_costs_its_steps() -> None:
    plain = price(Hyperparameters(max_steps=1000))
    assert price(Hyperparameters(max_steps=400, textual_inversion_steps=600)).seconds == plain.seconds


def test_prior_preservation_counts_the_class_images_that_are_missing() -> None:
    with_prior = Hyperparameters(max_steps=200, with_prior_preservation=True)
    assert price(with_prior).seconds > 100 + price(Hyperparameters(max_steps=200)).seconds


def test_the_budget_becomes_the_time_limit() -> None:
    cheap = price(Hyperparameters(max_steps=10), budget_dollars=0.2)
    assert cheap.limit_seconds == int(0.2 / INSTANCES["ml.g5.xlarge"][1] * 3600)
    assert cheap.limit_dollars <= 0.2


def test_over_the_budget_is_refused_before_the_start() -> None:
    with pytest.raises(OverBudget, match="100000 steps"):
        price(Hyperparameters(max_steps=100_000, method="full"))


def test_earlier_attempts_are_paid_from_the_same_budget() -> None:
    wanted = Hyperparameters(max_steps=10)
    assert price(wanted, budget_dollars=0.5, spent_dollars=0.2).limit_dollars <= 0.3
    with pytest.raises(OverBudget, match=r"after \$0.45 for earlier attempts"):
        price(wanted, budget_dollars=0.5, spent_dollars=0.45)
    with pytest.raises(OverBudget, match=r"\$0.50 pays for 0 s after \$0.90 for"):
        price(wanted, budget_dollars=0.5, spent_dollars=0.9)


@pytest.mark.parametrize(
    ("limits", "binds", "setting", "other"),
    [
        ({"max_seconds": 1800}, "may run 1800 s", "training_max_seconds", "budget"),
        ({"budget_dollars": 0.5}, "budget of $0.50 pays for 1278 s", "training_budget_dollars", "max_seconds"),
        ({"budget_dollars": 0.5, "keep_alive_seconds": 600}, "pays for 678 s, a warm pool's 600 s deducted",
         "training_budget_dollars", "max_seconds"),
    ],
)  # fmt: skip
def test_over_the_budget_names_the_limit_that_binds_and_its_own_setting(
    limits: dict[str, float], binds: str, setting: str, other: str
) -> None:
    with pytest.raises(OverBudget) as refused:
        price(Hyperparameters(max_steps=20_000), **limits)
    assert binds in refused.value.cause
    assert setting in refused.value.cure
    assert other not in str(refused.value).removeprefix(refused.value.code)


def test_the_quote_says_of_which_day_and_region_its_price_is() -> None:
    quoted = price(Hyperparameters(max_steps=10))
    assert quoted.price == Price(dollars_an_hour=1.408, region=PRICE_REGION, date=PRICE_DATE)


def test_an_instance_type_without_a_price_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(InternalError, match=r"There is no price for ml\.p5\.48xlarge") as refused:
        quote(Hyperparameters(), instance_type="ml.p5.48xlarge", instance_images=1, class_images=0, max_seconds=60,
              budget_dollars=1)  # fmt: skip
    assert "ml.g5.xlarge" in refused.value.cure


def test_a_receipt_is_computed_from_the_billed_seconds_and_tells_what_spot_saved() -> None:
    spot = job_receipt(1, "ml.g5.xlarge", is_billed=True, training_seconds=3600, billable_seconds=900, spot=True)
    assert (spot.dollars, spot.saved_dollars) == (0.352, 1.056)
    warm = job_receipt(2, "ml.g5.xlarge", is_billed=True, training_seconds=960, billable_seconds=900,
                       keep_alive_seconds=900)  # fmt: skip
    assert (warm.warm_seconds, warm.dollars, warm.saved_dollars) == (900, 0.704, 0)
    whole = Receipt.of([spot, warm])
    assert (whole.training_seconds, whole.billable_seconds) == (4560, 1800)
    assert (whole.dollars, whole.saved_dollars, whole.saved_percent) == (1.056, 1.056, 50.0)


def test_a_job_that_never_started_costs_nothing_and_keeps_nothing_warm() -> None:
    never = job_receipt(1, "ml.g5.xlarge", is_billed=True, keep_alive_seconds=900)
    assert (never.dollars, never.warm_seconds) == (0, 0)
    assert Receipt.of([never]).saved_percent == 0


def test_where_nobody_bills_a_receipt_has_seconds_and_no_price() -> None:
    local = job_receipt(1, "ml.g5.xlarge", is_billed=False, training_seconds=40, billable_seconds=40)
    assert (local.price, local.dollars, local.billable_seconds) == (None, 0, 40)


def checked() -> DatasetChecked:
    request = TrainingRequest(
        subject="dog", base_model="tiny", instance_prompt="a photo of sks dog", class_prompt=None,
        hyperparameters=Hyperparameters(max_steps=10),
    )  # fmt: skip
    return DatasetChecked(
        subject="dog", dataset_id="0" * 12, run_id="dog-0", request=request, instance_images=5, class_images=0,
        ignored=[],
    )  # fmt: skip


def assert_valid(operation: str, request: dict[str, object]) -> None:
    model = botocore.session.get_session().get_service_model("sagemaker").operation_model(operation)
    report = ParamValidator().validate(request, model.input_shape)
    assert not report.has_errors(), report.generate_report()


def job_on(capacity: TrainingCapacity, **more: str) -> dict[str, Any]:
    return training_job(
        checked(), price(Hyperparameters(max_steps=10)), job_name="dreamdrop-dog-1", version="000000000000-1",
        bucket="b-u-cket", image="123/image:tag", role_arn="arn:aws:iam::1:role/r-training-role-01",
        instance=Instance(capacity=capacity, wait_seconds=3600, keep_alive_seconds=600), **more,
    )  # fmt: skip


@pytest.mark.parametrize("capacity", get_args(TrainingCapacity))
def test_the_training_job_has_the_shape_sagemaker_wants(capacity: TrainingCapacity) -> None:
    job = job_on(capacity)
    assert_valid("CreateTrainingJob", job)
    assert job["OutputDataConfig"]["CompressionType"] == "NONE"
    assert job["EnableNetworkIsolation"] is True
    assert job["StoppingCondition"]["MaxRuntimeInSeconds"] <= 10_800
    assert all(channel["DataSource"]["S3DataSource"]["S3Uri"].endswith("/") for channel in job["InputDataConfig"])


def test_an_instance_is_spot_or_kept_warm_never_both() -> None:
    on_demand, spot, warm = (job_on(capacity) for capacity in get_args(TrainingCapacity))
    run = on_demand["StoppingCondition"]["MaxRuntimeInSeconds"]
    assert [job["EnableManagedSpotTraining"] for job in (on_demand, spot, warm)] == [False, True, False]
    assert spot["StoppingCondition"] == {"MaxRuntimeInSeconds": run, "MaxWaitTimeInSeconds": run + 3600}
    assert "KeepAlivePeriodInSeconds" not in {**spot["ResourceConfig"], **on_demand["ResourceConfig"]}
    assert warm["ResourceConfig"]["KeepAlivePeriodInSeconds"] == 600
    for job in (on_demand, warm):
        assert job["StoppingCondition"] == {"MaxRuntimeInSeconds": run, "MaxPendingTimeInSeconds": 3600}


def test_the_wait_of_a_warm_pool_is_part_of_the_most_that_can_be_billed() -> None:
    hourly = INSTANCES["ml.g5.xlarge"][1]
    kept = price(Hyperparameters(max_steps=10), keep_alive_seconds=600)
    assert kept.limit_dollars == pytest.approx((kept.limit_seconds + 600) / 3600 * hourly, abs=1e-4)
    cheap = price(Hyperparameters(max_steps=10), budget_dollars=1.0, keep_alive_seconds=600)
    assert cheap.limit_dollars <= 1.0


def test_a_key_encrypts_what_the_job_writes_and_is_not_named_for_disks_that_encrypt_themselves() -> None:
    job = job_on("on-demand", output_key_arn=KEY)
    assert_valid("CreateTrainingJob", job)
    assert job["OutputDataConfig"]["KmsKeyId"] == KEY
    assert "VolumeKmsKeyId" not in job["ResourceConfig"]
    assert {instance_type.split(".")[1] for instance_type in INSTANCES}.isdisjoint(VOLUME_FAMILIES)


def plan(**more: Any) -> EndpointPlan:
    return EndpointPlan(
        prefix="dreamdrop", base_model="sd-2.1", base_model_checksum="c", bucket="b", image="i",
        role_arn="arn:aws:iam::1:role/r-inference-role-1", instance_type="ml.g5.xlarge",
        success_topic_arn="arn:aws:sns:us-east-1:1:s", error_topic_arn="arn:aws:sns:us-east-1:1:e", **more,
    )  # fmt: skip


def test_a_key_encrypts_what_an_endpoint_answers_and_its_volume_if_it_has_one() -> None:
    config = plan(output_key_arn=KEY).config()
    assert_valid("CreateEndpointConfig", config)
    assert config["AsyncInferenceConfig"]["OutputConfig"]["KmsKeyId"] == KEY
    assert "KmsKeyId" not in config
    assert plan(output_key_arn=KEY, volume_key_arn=KEY).config()["KmsKeyId"] == KEY
    assert "KmsKeyId" not in str(plan().config())


def test_a_model_is_told_of_a_network_if_there_is_one() -> None:
    model = plan(**NETWORK).model()
    assert_valid("CreateModel", model)
    assert model["VpcConfig"] == {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}
    assert "VpcConfig" not in plan().model()


def test_model_config_and_endpoint_have_the_shape_sagemaker_wants() -> None:
    made = plan()
    assert_valid("CreateModel", made.model())
    assert_valid("CreateEndpointConfig", made.config())
    assert_valid("CreateEndpoint", made.endpoint())
    for change in (
        {"image": "other"}, {"blocked_words": ("hat",)}, {"watermark": "w"}, {"concurrent_invocations": 1},
        {"output_key_arn": KEY}, {"volume_key_arn": KEY}, NETWORK,
    ):  # fmt: skip
        changed = EndpointPlan(**{**vars(made), **change})
        assert changed.config_name != made.config_name
        assert changed.endpoint_name == made.endpoint_name
    assert made.model()["PrimaryContainer"]["Environment"] == {"BASE_MODEL_CHECKSUM": "c", "DATA_BUCKET": "b"}
    client = made.config()["AsyncInferenceConfig"]["ClientConfig"]
    assert client == {"MaxConcurrentInvocationsPerInstance": CONCURRENT_INVOCATIONS}
