"""The one logger, tracer and metrics of all functions."""

import warnings

from aws_lambda_powertools import Logger, Metrics, Tracer

SERVICE = "dreamdrop"

logger = Logger(service=SERVICE)
tracer = Tracer(service=SERVICE)
metrics = Metrics(namespace="Dreamdrop", service=SERVICE)

warnings.filterwarnings("ignore", "No application metrics to publish")  # most invocations have nothing to count
