"""Fixtures of the local SageMaker's tests: S3, SNS and SQS over HTTP, and an engine that leaves no process behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.sagemaker_harness import BUCKET, Workshop, leftovers
from tests.moto_server import moto_server


@pytest.fixture(scope="module")
def aws_url() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture
def make_shop(aws_url: str, tmp_path: Path) -> Iterator[Any]:
    made: list[Workshop] = []

    def new(**settings: Any) -> Workshop:
        workshop = Workshop(aws_url, tmp_path, **settings)
        workshop.s3.create_bucket(Bucket=BUCKET)
        made.append(workshop)
        return workshop

    yield new
    for workshop in made:
        workshop.engine.shutdown()
        assert not leftovers(tmp_path), "a container process survived its engine"
        objects = [{"Key": key} for key in workshop.keys("")]
        if objects:
            workshop.s3.delete_objects(Bucket=BUCKET, Delete={"Objects": objects})


@pytest.fixture
def shop(make_shop: Any) -> Workshop:
    workshop: Workshop = make_shop()
    return workshop
