"""One page that says how the system is: what comes in, what comes out, what waits and what is set aside."""

from __future__ import annotations

from collections.abc import Mapping

from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_sqs as sqs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from contracts import metrics
from infra.constructs.alarms import PERIOD, own_metric

THIRD = 8  # of the 24 columns


class Dashboard(Construct):
    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        prefix: str,
        dead_letters: Mapping[str, sqs.Queue],
        machine: sfn.StateMachine,
    ) -> None:
        super().__init__(scope, id)

        def counted(title: str, *names: str, statistic: str = "sum") -> cloudwatch.GraphWidget:
            left = [own_metric(prefix, name, statistic) for name in names]
            return cloudwatch.GraphWidget(title=title, left=left, width=THIRD)

        cloudwatch.Dashboard(
            self,
            "Dashboard",
            dashboard_name=prefix,
            widgets=[
                [
                    counted("Subjects", metrics.DATASETS_TAKEN, metrics.SUBJECTS_READY, metrics.SUBJECTS_DELETED),
                    counted("Runs that ended early", metrics.RUNS_REFUSED, metrics.RUNS_FAILED),
                    counted("Dollars for training", metrics.TRAINING_DOLLARS),
                ],
                [
                    cloudwatch.GraphWidget(
                        title="Executions",
                        left=[
                            machine.metric_started(period=PERIOD),
                            machine.metric_failed(period=PERIOD),
                            machine.metric_timed_out(period=PERIOD),
                        ],
                        width=THIRD,
                    ),
                    counted("Pictures", metrics.GENERATIONS_ACCEPTED, metrics.PICTURES_MADE),
                    counted("Requests that failed", metrics.GENERATIONS_FAILED, metrics.UNEXPECTED_ERRORS),
                ],
                [
                    counted("Longest wait in seconds", metrics.SECONDS_QUEUED, statistic="max"),
                    self._of_endpoints("Requests waiting and running", "ApproximateBacklogSize", prefix),
                    self._of_endpoints("Waiting without an instance", "HasBacklogWithoutCapacity", prefix),
                ],
                [
                    cloudwatch.GraphWidget(
                        title="Set aside",
                        left=[
                            queue.metric_approximate_number_of_messages_visible(period=PERIOD, label=about)
                            for about, queue in dead_letters.items()
                        ],
                        width=THIRD,
                    ),
                ],
            ],
        )

    def _of_endpoints(self, title: str, metric: str, prefix: str) -> cloudwatch.GraphWidget:
        """Endpoints are made at run time, so they are searched for."""
        found = f"SEARCH('{{AWS/SageMaker,EndpointName}} MetricName=\"{metric}\" {prefix}', 'Maximum', 300)"
        return cloudwatch.GraphWidget(
            title=title, left=[cloudwatch.MathExpression(expression=found, label="", period=PERIOD)], width=THIRD
        )
