"""The one way to make the function behind a state: parse, work, hand on; logged under the run's id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from aws_lambda_powertools.utilities.parser import parse
from aws_lambda_powertools.utilities.typing import LambdaContext
from pydantic import BaseModel

from contracts.errors import CallerError, DreamdropError, Unavailable
from contracts.metrics import RUNS_REFUSED
from contracts.pipeline import DatasetTaken
from lambdas.adapters.clients import is_transient
from lambdas.adapters.observability import logger, metrics, tracer

Payload = TypeVar("Payload", bound=DatasetTaken)
Handler = Callable[[dict[str, Any], LambdaContext], dict[str, Any]]


def state(model: type[Payload]) -> Callable[[Callable[[Payload], BaseModel]], Handler]:
    """Errors are raised, never returned: the state machine catches them by name and Recover reads their text.

    Any of these functions may be run again for the same payload, also after it has died anywhere in between.
    """

    def decorate(work: Callable[[Payload], BaseModel]) -> Handler:
        def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
            payload = parse(event=event, model=model)
            logger.append_keys(correlation_id=payload.run_id, subject=payload.subject)
            try:
                return work(payload).model_dump(mode="json")
            except Unavailable:  # tried again
                raise
            except DreamdropError as error:
                log = logger.info if isinstance(error, CallerError) else logger.error
                log(str(error), extra={"code": error.code})
                metrics.add_metric(name=RUNS_REFUSED, unit="Count", value=1)
                raise
            except Exception as error:
                if not is_transient(error):
                    raise
                logger.warning("not now", exc_info=True)
                raise Unavailable(f"A service of AWS does not answer as it should ({error}).") from error

        instrumented: Handler = logger.inject_lambda_context(clear_state=True)(
            tracer.capture_lambda_handler(metrics.log_metrics(handler))
        )
        return instrumented

    return decorate
