"""What a training will cost: an estimate before it starts, the most that can be billed, and what it did cost.

Dollars an hour: SageMaker on-demand training in PRICE_REGION on PRICE_DATE (docs/costs.md says from where), not read
from the price list at run time; other regions differ. Seconds a step and an image: upper estimates computed from FLOPs
and memory traffic of the SD 2.1 UNet at 512 x 512, not measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date

from contracts.errors import InternalError, OverBudget
from contracts.pipeline import JobReceipt, Price, Quote
from contracts.training import Hyperparameters

START_SECONDS = 300  # instance, image and base model
PRICE_REGION = "us-east-1"
PRICE_DATE = date(2026, 8, 17)
_REFERENCE_SIDE = 512


@dataclass(frozen=True)
class Gpu:
    full_step: float  # seconds, batch 1
    lora_step: float
    class_image: float  # seconds, 20 sampler steps


T4 = Gpu(0.8, 0.35, 4.0)
A10G = Gpu(0.3, 0.12, 1.2)
L4 = Gpu(0.45, 0.18, 1.8)

INSTANCES: dict[str, tuple[Gpu, float]] = {
    "ml.g4dn.xlarge": (T4, 0.736),
    "ml.g4dn.2xlarge": (T4, 0.94),
    "ml.g5.xlarge": (A10G, 1.408),
    "ml.g5.2xlarge": (A10G, 1.515),
    "ml.g6.xlarge": (L4, 1.127),
    "ml.g6.2xlarge": (L4, 1.222),
}


def price_of(instance_type: str) -> Price:
    """Raises InternalError for a type without a price: the settings name it, the table does not."""
    if instance_type not in INSTANCES:
        raise InternalError(
            f"There is no price for {instance_type}.",
            f"Name one of {', '.join(INSTANCES)} in training_instance_types, or add it to lambdas/domain/pricing.py.",
        )
    return Price(dollars_an_hour=INSTANCES[instance_type][1], region=PRICE_REGION, date=PRICE_DATE)


def dollars(instance_type: str, seconds: float) -> float:
    return round(price_of(instance_type).dollars_an_hour * seconds / 3600, 4)


def job_receipt(
    attempt: int,
    instance_type: str,
    *,
    is_billed: bool,
    training_seconds: int = 0,
    billable_seconds: int = 0,
    spot: bool = False,
    keep_alive_seconds: int = 0,
) -> JobReceipt:
    """BillableTimeInSeconds is at the price on demand, for spot too: that is how SageMaker shows the discount.

    How long a warm pool has waited is known only when it ends, so the longest that it may wait is taken.
    """
    warm = keep_alive_seconds if billable_seconds else 0
    saved_seconds = max(0, training_seconds - billable_seconds) if spot else 0
    return JobReceipt(
        attempt=attempt,
        instance_type=instance_type,
        spot=spot,
        price=price_of(instance_type) if is_billed else None,
        training_seconds=training_seconds,
        billable_seconds=billable_seconds,
        warm_seconds=warm,
        dollars=dollars(instance_type, billable_seconds + warm) if is_billed else 0.0,
        saved_dollars=dollars(instance_type, saved_seconds) if is_billed else 0.0,
    )


def quote(
    wanted: Hyperparameters,
    *,
    instance_type: str,
    instance_images: int,
    class_images: int,
    classes: int = 1,
    max_seconds: int,
    budget_dollars: float,
    spent_dollars: float = 0.0,
    keep_alive_seconds: int = 0,
) -> Quote:
    """classes: how many different class prompts there are. The time limit is what the budget pays for.

    spent_dollars: on earlier attempts, out of the same budget. keep_alive_seconds: of a warm pool, which bills its
    instance after the job too. Raises OverBudget, naming the limit that binds, when the estimate exceeds it.
    """
    price = price_of(instance_type)
    gpu, hourly = INSTANCES[instance_type][0], price.dollars_an_hour
    steps = wanted.total_steps(instance_images)
    seconds = math.ceil(_estimate(gpu, wanted, steps, wanted.num_class_images * classes - class_images))
    paid = max(0, int((budget_dollars - spent_dollars) / hourly * 3600) - keep_alive_seconds)
    limit = min(max_seconds, paid)
    if seconds > limit:
        after = f" after ${spent_dollars:.2f} for earlier attempts" if spent_dollars else ""
        after += f", a warm pool's {keep_alive_seconds} s deducted" if keep_alive_seconds else ""
        setting, binds = (
            ("training_max_seconds", f"a training job may run {max_seconds} s")
            if max_seconds <= paid
            else ("training_budget_dollars", f"the run's budget of ${budget_dollars:.2f} pays for {paid} s{after}")
        )
        estimate = f"about {seconds} s (${dollars(instance_type, seconds):.2f})"
        raise OverBudget(
            f"{steps} steps on {instance_type} take {estimate}; {binds}.",
            f"Ask for fewer steps, or raise {setting} in the settings; then upload any file again.",
        )
    return Quote(
        instance_type=instance_type,
        price=price,
        steps=steps,
        seconds=seconds,
        dollars=dollars(instance_type, seconds),
        limit_seconds=limit,
        limit_dollars=dollars(instance_type, limit + keep_alive_seconds),
    )


def _estimate(gpu: Gpu, wanted: Hyperparameters, steps: int, missing_class_images: int) -> float:
    area = ((wanted.resolution or _REFERENCE_SIDE) / _REFERENCE_SIDE) ** 2
    images_a_step = (
        wanted.batch_size * wanted.gradient_accumulation_steps * (2 if wanted.with_prior_preservation else 1)
    )
    step = (gpu.lora_step if wanted.method == "lora" else gpu.full_step) * images_a_step
    missing = max(0, missing_class_images) if wanted.with_prior_preservation else 0
    steps += wanted.textual_inversion_steps
    return START_SECONDS + area * (steps * step + missing * gpu.class_image)
