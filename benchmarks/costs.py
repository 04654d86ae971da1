"""What a month costs: the tables of docs/costs.md, computed from the price table that quotes and receipts use.

python -m benchmarks.costs      writes them anew
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contracts.training import Hyperparameters
from lambdas.domain.pricing import INSTANCES, PRICE_DATE, PRICE_REGION, quote

PAGE = Path("docs/costs.md")
INSTANCE = "ml.g5.xlarge"
SAMPLER_STEPS, STEPS_OF_THE_TABLE = 30, 20  # a request's default; what the table's seconds a picture are for

# Of the deployment; tests/infra compares the first four with the synthesized template of production.
ALARMS = 11
DASHBOARDS = 1
POLLED_QUEUES = 4
CUSTOMER_KEYS = 1  # the other environments have none
# Its wake alarm, the two that target tracking makes over two metrics each, that on waiting, that on idling over two.
ENDPOINT_ALARM_METRICS = 8

# Lambda asks each queue by five pollers, which wait 20 s for a message: from memory, not checked.
POLLS_A_QUEUE = 5 * 3 * 60 * 24 * 30

# Sizes, estimated.
BASE_MODEL_GB = 5.2  # Stable Diffusion 2.1 base, float32
IMAGES_GB = 10.0  # both container images, compressed
SUBJECT_GB = 0.08  # photos twice, LoRA checkpoints and model
PICTURE_GB = 0.0005

# The month of the second table.
SUBJECTS, PICTURES = 100, 10_000
TRAINING = Hyperparameters(method="lora", max_steps=400, with_prior_preservation=True, num_class_images=100)
PHOTOS = 5
SESSIONS = 100  # times that somebody draws and stops: each wakes the endpoint and lets it fall asleep
WAKE_SECONDS = 640  # billed from the instance's start on; one public measurement of a larger model
IDLE_SECONDS = 900 + 120  # no instance is removed before 15 minutes without work; the alarm's own delay
CALLS_A_SUBJECT, CALLS_A_PICTURE = 60, 6  # invocations of functions, polling included
TRANSITIONS_A_SUBJECT = 60  # polling for a new endpoint included
ROWS_A_SUBJECT, ROWS_A_PICTURE = 60, 12
LOG_KB_A_CALL = 4
LAMBDA_GB_SECONDS_A_CALL = 0.5


@dataclass(frozen=True)
class Price:
    dollars: float
    unit: str
    source: str


MEMORY = "from memory, not checked"
INSTANCE_PRICE = Price(INSTANCES[INSTANCE][1], "instance hour", f"price table, {PRICE_DATE.isoformat()}")
PRICES = {
    f"SageMaker {INSTANCE}, training and hosting": INSTANCE_PRICE,
    "S3 Standard": Price(0.023, "GB month", MEMORY),
    "ECR": Price(0.10, "GB month", MEMORY),
    "CloudWatch alarm": Price(0.10, "alarm metric month", MEMORY),
    "CloudWatch dashboard": Price(3.00, "dashboard month", MEMORY),
    "CloudWatch logs, taken in": Price(0.50, "GB", MEMORY),
    "CloudWatch metric of our own": Price(0.30, "metric month", MEMORY),
    "Lambda, arm64": Price(0.0000133334, "GB second", MEMORY),
    "Lambda request": Price(0.0000002, "request", MEMORY),
    "SQS": Price(0.0000004, "request", MEMORY),
    "KMS, customer-managed key": Price(1.00, "key month", MEMORY),
    "Step Functions": Price(0.000025, "state transition", MEMORY),
    "DynamoDB, on demand": Price(0.000000625, "row written", MEMORY),
    "API Gateway, HTTP API": Price(0.000001, "request", MEMORY),
    "X-Ray": Price(0.000005, "trace", MEMORY),
    "data to the internet": Price(0.09, "GB", MEMORY),
}
OWN_METRICS = 11


@dataclass(frozen=True)
class Line:
    what: str
    amount: float
    price: str  # a key of PRICES

    @property
    def dollars(self) -> float:
        return self.amount * PRICES[self.price].dollars


def at_rest() -> list[Line]:
    return [
        Line("the base model", BASE_MODEL_GB, "S3 Standard"),
        Line("the two container images", IMAGES_GB, "ECR"),
        Line("the deployment's alarms", ALARMS, "CloudWatch alarm"),
        Line("the endpoint's alarms, once it has been made", ENDPOINT_ALARM_METRICS, "CloudWatch alarm"),
        Line("the dashboard", DASHBOARDS, "CloudWatch dashboard"),
        Line("Lambda asks the empty queues for messages", POLLED_QUEUES * POLLS_A_QUEUE, "SQS"),
        Line("the customer's key, in production", CUSTOMER_KEYS, "KMS, customer-managed key"),
    ]


def of_use() -> list[Line]:
    instance = f"SageMaker {INSTANCE}, training and hosting"
    calls = SUBJECTS * CALLS_A_SUBJECT + PICTURES * CALLS_A_PICTURE
    return [
        Line(f"{SUBJECTS} trainings of {training_seconds()} s", SUBJECTS * training_seconds() / 3600, instance),
        Line(f"{PICTURES:,} pictures of {picture_seconds():.1f} s", PICTURES * picture_seconds() / 3600, instance),
        Line(
            f"{SESSIONS} times waking ({WAKE_SECONDS} s) and falling asleep ({IDLE_SECONDS} s)",
            SESSIONS * (WAKE_SECONDS + IDLE_SECONDS) / 3600,
            instance,
        ),
        Line("subjects and pictures kept", SUBJECTS * SUBJECT_GB + PICTURES * PICTURE_GB, "S3 Standard"),
        Line("functions, their time", calls * LAMBDA_GB_SECONDS_A_CALL, "Lambda, arm64"),
        Line("functions, their calls", calls, "Lambda request"),
        Line("states of the runs", SUBJECTS * TRANSITIONS_A_SUBJECT, "Step Functions"),
        Line("rows", SUBJECTS * ROWS_A_SUBJECT + PICTURES * ROWS_A_PICTURE, "DynamoDB, on demand"),
        Line("requests to the API", PICTURES * CALLS_A_PICTURE, "API Gateway, HTTP API"),
        Line("traces", calls, "X-Ray"),
        Line("logs", calls * LOG_KB_A_CALL / 1e6, "CloudWatch logs, taken in"),
        Line("our own metrics", OWN_METRICS, "CloudWatch metric of our own"),
        Line("pictures downloaded", PICTURES * PICTURE_GB, "data to the internet"),
    ]


def training_seconds() -> int:
    quoted = quote(
        TRAINING, instance_type=INSTANCE, instance_images=PHOTOS, class_images=0, max_seconds=10**6, budget_dollars=1e6
    )
    return quoted.seconds


def picture_seconds() -> float:
    return INSTANCES[INSTANCE][0].class_image * SAMPLER_STEPS / STEPS_OF_THE_TABLE


def tables() -> dict[str, str]:
    """Name of the table -> Markdown."""
    prices = [(name, _exact(price.dollars), price.unit, price.source) for name, price in PRICES.items()]
    instances = [(name, f"{hourly:.3f}") for name, (_, hourly) in INSTANCES.items()]
    return {
        "instances": _table(("instance type", f"dollars an hour, {PRICE_REGION}, {PRICE_DATE.isoformat()}"), instances),
        "prices": _table(("what", "dollars", "for one", "source"), prices),
        "at rest": _bill(at_rest()),
        "of use": _bill(of_use()),
    }


def _bill(lines: list[Line]) -> str:
    rows = [(line.what, f"{line.amount:,.1f} x {PRICES[line.price].unit}", f"{line.dollars:.2f}") for line in lines]
    total = sum(line.dollars for line in lines)
    return _table(("what", "how much", "dollars"), [*rows, ("**together**", "", f"**{total:.2f}**")])


def _exact(dollars: float) -> str:
    return f"{dollars:.10f}".rstrip("0").rstrip(".")


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, tuple("---" for _ in heads), *rows])


def with_tables(page: str) -> str:
    """The page with each table between its marks. Raises ValueError for one that it has no place for."""
    for name, table in tables().items():
        mark = f"<!-- {name} -->\n"
        parts = page.split(mark)
        if len(parts) != 3:
            raise ValueError(f"The page has no place for the table {name}: twice the line {mark.strip()}")
        before, _, after = parts
        page = f"{before}{mark}{table}\n{mark}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
