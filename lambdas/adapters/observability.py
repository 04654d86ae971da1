"""The one logger, tracer and metrics of all functions. Service and namespace come from POWERTOOLS_* variables."""

import warnings

from aws_lambda_powertools import Logger, Metrics, Tracer

logger = Logger()
tracer = Tracer()
metrics = Metrics()

warnings.filterwarnings("ignore", "No application metrics to publish")  # most invocations have nothing to count
