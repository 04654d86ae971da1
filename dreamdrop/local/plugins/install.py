"""Puts every plug-in into MiniStack, in the order that they build on each other."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ministack import app

from dreamdrop.local.faults import Faults
from dreamdrop.local.images import AssetImages
from dreamdrop.local.plugins import (
    alarms,
    credentials,
    decisions,
    fault_injection,
    public_parameters,
    sagemaker_api,
    sagemaker_events,
    sagemaker_states,
    states_roles,
    states_stopping,
    states_strict,
    tls,
)
from dreamdrop.local.plugins.functions import Functions
from dreamdrop.local.sagemaker import EngineSettings, LocalSageMaker
from dreamdrop.local.settings import CloudSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plugins:
    engine: LocalSageMaker
    functions: Functions
    settings: CloudSettings
    application: Any
    """The ASGI application to serve."""

    def restore(self) -> None:
        """Takes up what an earlier run has left: endpoints boot again, executions that were cut off are reported."""
        self.engine.restore()
        for arn in states_stopping.report_interrupted(self.settings.account, self.settings.region):
            log.warning("Cut off by the last stop of the local cloud: %s", arn)

    def shutdown(self) -> None:
        self.functions.kill()
        self.engine.shutdown()


def install(settings: CloudSettings) -> Plugins:
    account, region = settings.account, settings.region
    engine = LocalSageMaker(
        endpoint_url=settings.endpoint_url,
        region=region,
        account=account,
        work=settings.state / "sagemaker",
        resolve_image=AssetImages(settings.cdk_out, settings.state / "images"),
        credentials_for_role=lambda role: credentials.credentials_for_role(role, account, region),
        settings=EngineSettings(device_slots=settings.training_slots),
    )
    engine.emit = sagemaker_events.emitter(account, region)
    functions = Functions(settings.endpoint_url)
    waiting = states_stopping.WaitingJobs()
    if settings.decisions:
        decisions.install(settings.decisions)
    tls.install()
    alarms.install()
    public_parameters.install(region)
    functions.install()
    states_strict.install()
    states_stopping.install(waiting)
    states_roles.install(region)
    sagemaker_states.install(engine, waiting, region, account)
    sagemaker_api.install(engine, region, account)
    if not settings.faults:
        return Plugins(engine, functions, settings, app.app)
    faults = Faults()
    fault_injection.install(faults, engine)
    return Plugins(engine, functions, settings, fault_injection.FaultGate(app.app, faults, functions))
