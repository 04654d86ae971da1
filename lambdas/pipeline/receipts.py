"""What an ended training job was billed for reaches its run and its owner's daily budget, whoever hears of it first."""

from __future__ import annotations

from contracts.environment import TrainingEnvironment
from contracts.metrics import TRAINING_DOLLARS
from contracts.pipeline import DatasetTaken, JobReceipt
from lambdas.adapters.observability import logger, metrics
from lambdas.adapters.spending import Spending


def settle(env: TrainingEnvironment, taken: DatasetTaken, receipt: JobReceipt) -> None:
    """Safe to repeat."""
    news = Spending(env.table_name).settle(taken, receipt)
    logger.info("training job settled", extra={"receipt": receipt.plain(), "news_dollars": news})
    if news:
        metrics.add_metric(name=TRAINING_DOLLARS, unit="None", value=news)
