"""Dreamdrop as an AWS CDK application: settings -> two stacks. The only place that reads the context.

`cdk synth` and `python3 app.py` give the same templates: without the CLI the context of cdk.json is read here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from aws_cdk import App, Tags

from infra.data_stack import DataStack
from infra.service_stack import ServiceStack
from infra.settings import UnusableSettings, settings_for


def context_of_project() -> dict[str, object]:
    content = json.loads((Path(__file__).parent / "cdk.json").read_text())
    return dict(content["context"])


def build(app: App) -> None:
    """Adds both stacks, sized by the context values `environment` and `prefix`."""
    settings = settings_for(app.node.get_context("environment"), app.node.get_context("prefix"))
    data = DataStack(app, f"{settings.prefix}-data", settings=settings)
    ServiceStack(app, f"{settings.prefix}-service", settings=settings, data=data)
    Tags.of(app).add("application", settings.prefix)


if __name__ == "__main__":
    application = App(context=context_of_project())
    try:
        build(application)
    except UnusableSettings as error:
        sys.exit(str(error))
    application.synth()
