"""A base model as a directory, and a bucket to import it into."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from dreamdrop.deployment import Deployment

HEADER = b"{}"
SAFETENSORS = len(HEADER).to_bytes(8, "little") + HEADER


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    for part in ("unet", "vae", "text_encoder", "tokenizer", ".git"):
        (root / part).mkdir(parents=True)
    (root / "model_index.json").write_text("{}")
    (root / "unet/config.json").write_text(json.dumps({"sample_size": 64}))
    (root / "vae/config.json").write_text(json.dumps({"block_out_channels": [1, 2, 3, 4]}))
    for part in ("unet", "vae", "text_encoder"):
        (root / part / "diffusion_pytorch_model.safetensors").write_bytes(SAFETENSORS)
    (root / "tokenizer/vocab.json").write_text("{}")
    (root / ".git/config").write_text("hidden")
    return root


@pytest.fixture
def deployment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="data")
        yield Deployment(
            region="us-east-1",
            api_url="https://unused",
            data_bucket="data",
            table_name="t",
            state_machine_arn="m",
            subject_topic_arn="s",
        )
