"""PlanTraining: instance, job name, price; the whole request to SageMaker. Over the budget it ends here."""

from __future__ import annotations

from datetime import UTC, datetime

from contracts.environment import PlanEnvironment
from contracts.errors import DailyBudgetReached
from contracts.pipeline import DatasetChecked, TrainingPlanned
from contracts.storage import class_image_set_prefix, training_job_name, version_id
from lambdas.adapters.configuration import environment
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.observability import logger
from lambdas.adapters.spending import Spending
from lambdas.adapters.table import Subjects
from lambdas.domain.pricing import quote
from lambdas.domain.training_job import Instance, training_job
from lambdas.pipeline.state import state


@state(DatasetChecked)
def handler(checked: DatasetChecked) -> TrainingPlanned:
    env = environment(PlanEnvironment)
    subjects = Subjects(env.table_name)
    subjects.enter(checked, "planning", attempt=checked.attempt, ignored=checked.ignored)
    bucket = DataBucket(env.data_bucket)
    wanted_sets = checked.request.class_image_sets(bucket.base_model(checked.request.base_model).checksum)
    subjects.use_class_images(checked.subject, wanted_sets)
    kept = {name: count for name in wanted_sets if (count := bucket.count(class_image_set_prefix(name)))}
    capacity = "on-demand" if checked.on_demand else env.training_capacity
    spent = _spent(subjects, checked)
    price = quote(
        checked.request.hyperparameters,
        instance_type=env.training_instance_types[checked.ladder_rung],
        instance_images=checked.instance_images,
        class_images=checked.class_images + sum(kept.values()),
        classes=len(checked.request.class_prompts),
        max_seconds=env.training_max_seconds,
        budget_dollars=env.training_budget_dollars,
        spent_dollars=spent,
        keep_alive_seconds=env.training_keep_alive_seconds if capacity == "warm-pool" else 0,
    )
    version = version_id(checked.dataset_id, checked.attempt)
    job_name = training_job_name(env.resource_prefix, checked.subject, version)
    job = training_job(
        checked,
        price,
        job_name=job_name,
        version=version,
        bucket=env.data_bucket,
        image=env.training_image,
        role_arn=env.training_role_arn,
        instance=Instance(
            capacity=capacity,
            wait_seconds=env.training_wait_seconds,
            keep_alive_seconds=env.training_keep_alive_seconds,
        ),
        class_image_sets=list(kept),
        output_key_arn=env.output_key_arn,
    )
    _reserve(env, checked, price.limit_dollars if env.training_is_billed else 0.0)
    logger.info("planned", extra={"job": job_name, "quote": price.plain()})
    subjects.enter(checked, "training", version=version, quote=price.model_dump_json())
    return TrainingPlanned(
        **checked.model_dump(), version=version, job_name=job_name, capacity=capacity, quote=price, training_job=job
    )


def _spent(subjects: Subjects, checked: DatasetChecked) -> float:
    """On earlier attempts: a run has one budget."""
    run = subjects.run(checked.subject, checked.run_id)
    return run.receipt.dollars if run and run.receipt else 0.0


def _reserve(env: PlanEnvironment, checked: DatasetChecked, most: float) -> None:
    """most: that the job can be billed for. What it does not need comes back with its receipt."""
    spending, today = Spending(env.table_name), datetime.now(UTC).date()
    budget = env.daily_budget_dollars
    if not spending.reserve(checked, checked.attempt, most, budget_dollars=budget, day=today):
        raise DailyBudgetReached(
            f"This training may cost up to ${most:.2f}, and ${spending.of_day(checked, today):.2f} of today's "
            f"${budget:.2f} are spent or reserved."
        )
