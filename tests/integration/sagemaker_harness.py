"""Two small container programs, an S3/SNS/SQS to talk to, and an engine around them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import boto3

from dreamdrop.local.images import AssetImages
from dreamdrop.local.sagemaker import EngineSettings, LocalSageMaker

REGION = "us-east-1"
ACCOUNT = "123456789012"
BUCKET = "data"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/container"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/assets:"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}

TRAINER = """\
import json, os, pathlib, signal, sys, time
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
assert sys.argv[1] == "train"
settings = json.loads((base / "input/config/hyperparameters.json").read_text())
checkpoint = base / "checkpoints/step.txt"
step = int(checkpoint.read_text()) if checkpoint.exists() else 0
(base / "output/data/environment.json").write_text(json.dumps(dict(os.environ)))
def save():
    data = sorted(p.relative_to(base / "input").as_posix() for p in (base / "input/data").rglob("*") if p.is_file())
    (base / "model/nested").mkdir(parents=True, exist_ok=True)
    (base / "model/nested/model.json").write_text(json.dumps({"first_step": step, "data": data}))
def on_term(number, frame):
    save()
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if settings.get("deaf") else on_term)
print("loss=0.9;", flush=True)
print("loss=0.25;", flush=True)
if settings.get("child") and os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
for now in range(step + 1, step + 1 + int(settings.get("steps", "1"))):
    checkpoint.with_suffix(".tmp").write_text(str(now))
    checkpoint.with_suffix(".tmp").replace(checkpoint)
    time.sleep(float(settings.get("pause", "0")))
if "failure" in settings:
    (base / "output/failure").write_text(settings["failure"])
    sys.exit(3)
if settings.get("die"):
    os.kill(os.getpid(), signal.SIGKILL)
save()
"""

SERVER = """\
import http.server, json, os, pathlib, signal, sys, time
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
assert sys.argv[1] == "serve"
if os.environ.get("BROKEN"):
    sys.exit("the model does not fit")
model = (base / "model/weights.txt").read_text()
sources = base / "additional-model-data-sources"
additional = {p.relative_to(sources).as_posix(): p.read_text() for p in sources.rglob("*") if p.is_file()}
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(200, b"{}")
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(request.get("sleep", 0))
        if request.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if request.get("fail"):
            return self.answer(500, b'{"error": "no picture"}')
        custom = self.headers.get("X-Amzn-SageMaker-Custom-Attributes")
        seen = {"model": model, "pid": os.getpid(), "custom": custom, "echo": request, "additional": additional}
        seen["has_credentials"] = "AWS_ACCESS_KEY_ID" in os.environ
        self.answer(200, json.dumps(seen).encode())
    def log_message(self, *arguments):
        pass
address = ("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"]))
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""

T = TypeVar("T")


def stage_images(cdk_out: Path) -> None:
    images = {}
    for tag, program in {"trainer": TRAINER, "server": SERVER}.items():
        folder = cdk_out / f"asset.{tag}" / tag
        folder.mkdir(parents=True)
        (folder / "__main__.py").write_text(program)
        dockerfile = f'FROM x\nWORKDIR /opt/program\nCOPY {tag} ./{tag}\nENTRYPOINT ["python", "-m", "{tag}"]\n'
        (folder.parent / "Dockerfile").write_text(dockerfile)
        source = {"directory": f"asset.{tag}", "dockerFile": "Dockerfile"}
        images[tag] = {"source": source, "destinations": {"d": {"repositoryName": "assets", "imageTag": tag}}}
    (cdk_out / "app.assets.json").write_text(json.dumps({"dockerImages": images}))


def eventually(look: Callable[[], T | None], seconds: float = 15) -> T:
    """The first true answer."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "nothing came in time"
        time.sleep(0.03)
    return found


class Workshop:
    """An engine, restartable over the same directory, and the buckets and topics that it uses."""

    def __init__(self, url: str, directory: Path, **settings: Any) -> None:
        self.url = url
        self.directory = directory
        stage_images(directory / "cdk.out")
        self._settings = {"training_stop_grace_seconds": 0.5, "serving_stop_grace_seconds": 10.0} | {
            "checkpoint_interval_seconds": 0.1,
            "restart_backoff_seconds": 0.05,
            **settings,
        }
        self.s3, self.sns, self.sqs = (self._client(service) for service in ("s3", "sns", "sqs"))
        self.events: list[tuple[str, dict[str, Any], list[str]]] = []
        self.engine = self.new_engine()

    def new_engine(self) -> LocalSageMaker:
        engine = LocalSageMaker(
            endpoint_url=self.url,
            region=REGION,
            account=ACCOUNT,
            work=self.directory / "work",
            resolve_image=AssetImages(self.directory / "cdk.out", self.directory / "images"),
            credentials_for_role=lambda role: CREDENTIALS,
            settings=EngineSettings(**self._settings),
        )
        engine.emit = lambda *event: self.events.append(event)
        return engine

    def restart(self) -> None:
        self.engine.shutdown()
        self.engine = self.new_engine()
        self.engine.restore()

    def _client(self, service: str) -> Any:
        return boto3.client(  # type: ignore[call-overload]
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def put(self, key: str, body: bytes | str = b"x") -> None:
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=body)

    def get(self, location: str) -> bytes:
        body: bytes = self.s3.get_object(Bucket=BUCKET, Key=location.removeprefix(f"s3://{BUCKET}/"))["Body"].read()
        return body

    def keys(self, prefix: str) -> list[str]:
        listed = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"] for item in listed.get("Contents", [])]

    # ------------------------------------------------------------------ training
    def train(self, name: str, hyperparameters: dict[str, str] | None = None, **more: Any) -> str:
        request = {
            "TrainingJobName": name,
            "RoleArn": ROLE,
            "AlgorithmSpecification": {"TrainingImage": f"{IMAGE}trainer", "TrainingInputMode": "File"},
            "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/models", "CompressionType": "NONE"},
            "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
            "StoppingCondition": {"MaxRuntimeInSeconds": 600},
            "HyperParameters": hyperparameters or {},
            **more,
        }
        self.engine.call("CreateTrainingJob", request)
        return name

    def job(self, name: str) -> dict[str, Any]:
        return self.engine.call("DescribeTrainingJob", {"TrainingJobName": name})

    def ended(self, name: str) -> dict[str, Any]:
        ends = ("Completed", "Failed", "Stopped")
        return eventually(lambda: job if (job := self.job(name))["TrainingJobStatus"] in ends else None)

    def reaches(self, name: str, secondary: str) -> dict[str, Any]:
        return eventually(lambda: job if (job := self.job(name))["SecondaryStatus"] == secondary else None)

    # ------------------------------------------------------------------ hosting
    def configure(self, name: str, weights: str = "v1", environment: dict[str, str] | None = None) -> str:
        """A model and an asynchronous endpoint configuration of that name, with topics that feed queues."""
        self.put(f"base/{name}/weights.txt", weights)
        source = {"S3Uri": f"s3://{BUCKET}/base/{name}/", "S3DataType": "S3Prefix", "CompressionType": "None"}
        container = {
            "Image": f"{IMAGE}server",
            "ModelDataSource": {"S3DataSource": source},
            "Environment": environment or {},
        }
        self.engine.call("CreateModel", {"ModelName": name, "PrimaryContainer": container, "ExecutionRoleArn": ROLE})
        output = {
            "S3OutputPath": f"s3://{BUCKET}/inference/output",
            "S3FailurePath": f"s3://{BUCKET}/inference/failure",
            "NotificationConfig": {"SuccessTopic": self.topic("success"), "ErrorTopic": self.topic("error")},
        }
        variant = {"VariantName": "all", "ModelName": name, "InitialInstanceCount": 1, "InstanceType": "ml.g5.xlarge"}
        config = {
            "EndpointConfigName": name,
            "ProductionVariants": [variant],
            "AsyncInferenceConfig": {
                "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 1},
                "OutputConfig": output,
            },
        }
        self.engine.call("CreateEndpointConfig", config)
        return name

    def topic(self, name: str) -> str:
        unique = f"{name}-{self.directory.name}"
        arn: str = self.sns.create_topic(Name=unique)["TopicArn"]
        url = self.sqs.create_queue(QueueName=unique)["QueueUrl"]
        queue_arn = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        self.sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue_arn, Attributes={"RawMessageDelivery": "true"})
        return arn

    def host(self, name: str = "drawing", **environment: str) -> str:
        self.engine.call("CreateEndpoint", {"EndpointName": name, "EndpointConfigName": self.configure(name)})
        self.in_service(name)
        return name

    def endpoint(self, name: str) -> dict[str, Any]:
        return self.engine.call("DescribeEndpoint", {"EndpointName": name})

    def reaches_status(self, name: str, status: str) -> dict[str, Any]:
        return eventually(lambda: e if (e := self.endpoint(name))["EndpointStatus"] == status else None)

    def in_service(self, name: str) -> dict[str, Any]:
        return self.reaches_status(name, "InService")

    def scale(self, name: str, count: int) -> None:
        desired = [{"VariantName": "all", "DesiredInstanceCount": count}]
        self.engine.call(
            "UpdateEndpointWeightsAndCapacities", {"EndpointName": name, "DesiredWeightsAndCapacities": desired}
        )

    def instances(self, name: str) -> int:
        count: int = self.endpoint(name)["ProductionVariants"][0]["CurrentInstanceCount"]
        return count

    def ask(self, name: str, body: dict[str, Any], **headers: str) -> dict[str, str]:
        sent = {f"X-Amzn-SageMaker-{k.replace('_', '-')}": v for k, v in headers.items()}
        return self.engine.invoke_async(name, sent, json.dumps(body).encode())

    def notification(self, topic: str) -> dict[str, Any]:
        try:
            return eventually(lambda: self._received(topic))
        except AssertionError:
            other = self._received({"success": "error", "error": "success"}[topic])
            raise AssertionError(f"no {topic} in time; the other topic was told {other}") from None

    def _received(self, topic: str) -> dict[str, Any] | None:
        url = self.sqs.get_queue_url(QueueName=f"{topic}-{self.directory.name}")["QueueUrl"]
        messages = self.sqs.receive_message(QueueUrl=url).get("Messages", [])
        if not messages:
            return None
        self.sqs.delete_message(QueueUrl=url, ReceiptHandle=messages[0]["ReceiptHandle"])
        body: dict[str, Any] = json.loads(messages[0]["Body"])
        return body


def leftovers(directory: Path) -> list[int]:
    """Living processes whose base directory is below this one."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            zombie = ") Z " in (process / "stat").read_text()
        except OSError:
            continue
        if f"SAGEMAKER_BASE_DIR={directory}".encode() in environment and not zombie:
            found.append(int(process.name))
    return found
