"""Parts of the serving tests: small real subjects published to an S3 server, and a running server."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from contracts.artifact import (
    LORA_WEIGHTS,
    Artifact,
    BaseModelManifest,
    FileEntry,
    SampleCheck,
    TrainingSummary,
    VersionManifest,
)
from contracts.storage import MANIFEST, version_manifest_key, version_prefix
from contracts.training import Hyperparameters
from tests.moto_server import moto_server

BUCKET = "data"
REPOSITORY = Path(__file__).parents[2]
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "eu-west-1",
}


def make_lora(base: Path, out: Path, *, seed: int, text_encoder: bool = False, std: float = 0.5) -> Path:
    """An adapter with random weights, saved as a training saves one."""
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    torch.manual_seed(seed)
    parts = {"unet": (pipeline.unet, ["to_q", "to_k", "to_v", "to_out.0"])}
    if text_encoder:
        parts["text_encoder"] = (pipeline.text_encoder, ["q_proj", "k_proj", "v_proj", "out_proj"])
    layers = {}
    for name, (module, targets) in parts.items():
        module.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=targets))
        for key, weight in module.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(weight, std=std)
        layers[f"{name}_lora_layers"] = get_peft_model_state_dict(module)
    StableDiffusionPipeline.save_lora_weights(out, safe_serialization=True, **layers)
    return out


def make_full(base: Path, out: Path, *, seed: int) -> Path:
    """The base model's pipeline with every weight of the UNet moved a little."""
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in pipeline.unet.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    pipeline.save_pretrained(out, safe_serialization=True)
    return out


def describe_files(directory: Path) -> list[FileEntry]:
    return [
        FileEntry(
            path=file.relative_to(directory).as_posix(),
            size=file.stat().st_size,
            sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        )
        for file in sorted(directory.rglob("*"))
        if file.is_file()
    ]


def version_manifest(
    base: Path, subject: str, version: str, files: list[FileEntry], /, **changes: Any
) -> VersionManifest:
    """A manifest as the publish step writes it, with some of its or its artifact's fields changed."""
    base_manifest = BaseModelManifest.model_validate_json((base / MANIFEST).read_bytes())
    artifact = Artifact(
        method="lora" if any(entry.path == LORA_WEIGHTS for entry in files) else "full",
        base_model=base_manifest.id,
        base_model_checksum=base_manifest.checksum,
        instance_prompt="a photo of sks toy",
        class_prompt=None,
        resolution=base_manifest.resolution,
        hyperparameters=Hyperparameters(),
        training=TrainingSummary(
            steps=1,
            seconds=1,
            first_loss=1,
            last_loss=1,
            held_out_before=1,
            held_out_after=1,
            samples=[SampleCheck(path="samples/0.png", finite=True, contrast=0.5)],
        ),
        versions={},
        files=files,
    )
    prefix = f"{version_prefix(subject, version)}job/output/model/"
    manifest = VersionManifest(
        subject=subject,
        version=version,
        prefix=prefix,
        dataset_id=version[:12],
        training_job="job",
        published_at=datetime(2026, 1, 1, tzinfo=UTC),
        artifact=artifact,
    )
    top_level = {key: value for key, value in changes.items() if key in VersionManifest.model_fields}
    inner = {key: value for key, value in changes.items() if key in Artifact.model_fields}
    return manifest.model_copy(update={"artifact": artifact.model_copy(update=inner), **top_level})


def publish(s3: Any, manifest: VersionManifest, directory: Path) -> None:
    for file in directory.rglob("*"):
        if file.is_file():
            s3.upload_file(str(file), BUCKET, manifest.prefix + file.relative_to(directory).as_posix())
    s3.put_object(
        Bucket=BUCKET,
        Key=version_manifest_key(manifest.subject, manifest.version),
        Body=manifest.model_dump_json().encode(),
    )


@contextmanager
def s3_server() -> Iterator[tuple[str, Any]]:
    """(endpoint, client) of an S3 server of our own with one bucket, gone afterwards."""
    with moto_server() as endpoint:
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="eu-west-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
        client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        yield endpoint, client


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class RunningServer:
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    headers: dict[str, str] = field(
        default_factory=lambda: {"Content-Type": "application/json", "Accept": "application/json;png"}
    )

    def call(self, method: str, path: str, body: Any = None, timeout: float = 60, **headers: str) -> Answer:
        """One request on a connection of its own; `content_type` and `accept` become headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        content = json.dumps(body).encode() if isinstance(body, dict | list) else body
        named = {name.replace("_", "-").title(): value for name, value in headers.items()}
        try:
            connection.request(method, path, content, named or (self.headers if method == "POST" else {}))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def draw(self, **payload: Any) -> Answer:
        return self.call("POST", "/invocations", {"num_inference_steps": 2, **payload})

    def wait_for_ping(self, status: int, seconds: float = 40) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if self.call("GET", "/ping", timeout=2).status == status:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"no {status} from /ping; the log says:\n{self.log.read_text()}")

    def worker_pid(self) -> int:
        pids: list[str] = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with suppress(FileNotFoundError):  # a thread that has just ended
                pids += (task / "children").read_text().split()
        return int(pids[0])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def running_server(base_directory: Path, base_model: Path, port: int, **variables: str) -> Iterator[RunningServer]:
    """`serve` as a process, as SageMaker starts it; not yet ready."""
    if not (base_directory / "model").exists():
        shutil.copytree(base_model, base_directory / "model")
    log = base_directory / "log.txt"
    environment = {
        **os.environ,
        **CREDENTIALS,
        "SAGEMAKER_BASE_DIR": str(base_directory),
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "BIND_TO_ADDRESS": "127.0.0.1",
        **variables,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "inference_container", "serve"],
            cwd=REPOSITORY,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield RunningServer(process, port, log)
    finally:
        process.kill()
        process.wait()
