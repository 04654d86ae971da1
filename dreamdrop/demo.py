"""The whole journey on this machine: a cloud of its own, five photos in, four pictures out, and a report about it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from contracts.artifact import Artifact, VersionManifest
from contracts.errors import InternalError
from contracts.generation import Generation, GenerationRequest
from contracts.pipeline import DatasetReport, Run, Stage, Subject
from contracts.storage import dataset_prefix, report_key, version_manifest_key
from dreamdrop.client import Client, files_to_drop
from dreamdrop.default_base import ensure_imported, read_finished
from dreamdrop.deployment import Deployment
from dreamdrop.failures import EXPECTED
from dreamdrop.local import process, synth
from dreamdrop.local.process import LocalCloudProcess
from dreamdrop.progress import RunDisplay, stage_times, timed
from dreamdrop.report import Journey, Shown, draw_grid, render_html
from dreamdrop.up import BASE_MODEL, CDK_OUT, PROJECT, STATE, free_port

DATASET = Path("examples/datasets/robot")
OUT = Path("out/demo")
PLACES = ("on the beach", "in the snow", "in the city", "under water")
SEED = 7
READY_TIMEOUT_SECONDS = 1800.0
POLL_SECONDS = 0.25
MEBIBYTE = 1024 * 1024
MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


@dataclass(frozen=True)
class DemoResult:
    report: Path
    grid: Path
    timings: Path


@dataclass
class Watch:
    """What happened and when, for the report. Times are the wall clock's, UTC."""

    uploaded: datetime | None = None
    first_picture: datetime | None = None
    local_cloud_bytes: int = 0
    losses: dict[int, float] = field(default_factory=dict)

    def see(self, subject: Subject) -> None:
        progress = subject.run.progress if subject.run else None
        if progress is not None and progress.loss is not None:
            self.losses[progress.step] = progress.loss


def run(dataset: Path, out: Path, port: int, console: Console) -> DemoResult:
    """Raises what stopped it, after saying where the logs are. No process is left behind, whatever ends it."""
    files_to_drop(dataset)  # refuse a wrong folder, or a damaged base model, before anything is started
    base_model = read_finished(BASE_MODEL)
    log = out / "cloud.log"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    try:
        with _cloud(out, log, port, console) as cloud:
            with timed(console, f"Importing the base model {base_model.id}"):
                ensure_imported(cloud.deployment(), BASE_MODEL, base_model)
            return _journey(Client(cloud.deployment()), cloud, dataset, out, console)
    except EXPECTED:
        console.print(f"The logs: {log} and {out}/state/", markup=False, highlight=False, soft_wrap=True)
        raise


@contextmanager
def _cloud(out: Path, log: Path, port: int, console: Console) -> Iterator[LocalCloudProcess]:
    """A cloud that shares nothing with one of `dreamdrop up`, which runs its code from its own templates."""
    cdk_out = CDK_OUT if process.status(STATE) is None else out / "cdk.out"
    with timed(console, "Synthesizing the application"):
        synth.synthesize(PROJECT, cdk_out)
    port = free_port(port)
    with ExitStack() as stops:
        with timed(console, f"Starting the local cloud on port {port} and deploying into it"):
            cloud = stops.enter_context(process.start(cdk_out, out / "state", port, auth=True, log=log))
        yield cloud


def _journey(client: Client, cloud: LocalCloudProcess, dataset: Path, out: Path, console: Console) -> DemoResult:
    watch = Watch()
    subject = dataset.resolve().name
    with timed(console, f"Dropping {dataset} into s3://{client.deployment.data_bucket}/{dataset_prefix(subject)}"):
        client.drop(dataset, subject)
        watch.uploaded = datetime.now(UTC)
    with RunDisplay(console) as display:

        def hear(news: Subject) -> None:
            watch.see(news)
            display.show(news)

        ready = client.wait_until_ready(subject, hear, timeout_seconds=READY_TIMEOUT_SECONDS, poll_seconds=POLL_SECONDS)
    generation, pictures = _draw(client, ready, out, console, watch)
    watch.local_cloud_bytes = cloud.rss_bytes()
    return _write_report(client, ready, dataset, generation, pictures, watch, out)


def _draw(client: Client, ready: Subject, out: Path, console: Console, watch: Watch) -> tuple[Generation, list[Path]]:
    """Four pictures by one request through the HTTP API."""
    prompts = [f"{ready.instance_prompt} {place}" for place in PLACES]
    request = GenerationRequest(subject=ready.subject, prompt=prompts, seed=SEED)
    with timed(console, f"Drawing {len(prompts)} pictures through the API"):
        generation = client.wait_for_generation(client.generate(request).id, poll_seconds=POLL_SECONDS)
        pictures = client.save_images(generation, out / "pictures")
        watch.first_picture = datetime.now(UTC)
    if len(pictures) != len(prompts):
        raise InternalError(f"{len(prompts)} pictures were asked for, {len(pictures)} came.")
    return generation, pictures


def _write_report(
    client: Client, ready: Subject, dataset: Path, generation: Generation, pictures: list[Path], watch: Watch, out: Path
) -> DemoResult:
    finished = _run_of(ready)
    version = VersionManifest.model_validate_json(
        _read(client.deployment, version_manifest_key(ready.subject, generation.version))
    )
    journey = Journey(
        subject=ready.subject,
        instance_prompt=version.artifact.instance_prompt,
        photos=photos_of(dataset),
        pictures=[_shown(path, picture.prompt) for path, picture in zip(pictures, generation.images, strict=True)],
        stages=[
            (time.stage, time.seconds) for time in stage_times(finished, datetime.now(UTC)) if time.stage != "ready"
        ],
        timings=measure(finished, generation, watch),
        training=version.artifact.training,
        quote=finished.quote,
        receipt=finished.receipt,
        dataset=DatasetReport.model_validate_json(
            _read(client.deployment, report_key(ready.subject, finished.dataset_id))
        ),
        note=describe_artist(version.artifact),
        losses=sorted(watch.losses.items()),
    )
    result = DemoResult(report=out / "report.html", grid=out / "grid.png", timings=out / "timings.json")
    result.grid.write_bytes(draw_grid(journey.photos, journey.pictures, journey.note))
    result.report.write_text(render_html(journey), encoding="utf-8")
    result.timings.write_text(json.dumps({"stages": dict(journey.stages)} | journey.timings, indent=2) + "\n")
    return result


def describe_artist(artifact: Artifact) -> str:
    """What drew the pictures, and how large: they are shown at another size."""
    return f"Drawn by the base model {artifact.base_model}, {artifact.resolution} pixels a side."


def measure(finished: Run, generation: Generation, watch: Watch) -> dict[str, float]:
    """Seconds between the events that a person waits for, and the memory of the local cloud."""
    measured: dict[str, float] = {}
    training = _entered(finished, "training")
    judging = _entered(finished, "judging")
    if training and watch.uploaded:
        measured["seconds from last upload to training"] = (training - watch.uploaded).total_seconds()
    if judging and watch.first_picture:
        measured["seconds from training's end to first picture"] = (watch.first_picture - judging).total_seconds()
    for name, milliseconds in generation.timings.model_dump().items():
        if milliseconds is not None:
            measured[f"seconds of the request, {name.removesuffix('_ms')}"] = milliseconds / 1000
    measured["megabytes of the local cloud"] = watch.local_cloud_bytes / MEBIBYTE
    return measured


def _entered(finished: Run, stage: Stage) -> datetime | None:
    """The last time: a retry enters a stage again."""
    return next((entry.at for entry in reversed(finished.stages) if entry.stage == stage), None)


def _run_of(ready: Subject) -> Run:
    if ready.run is None:
        raise InternalError(f"The API names no run of {ready.subject}.")
    return ready.run


def _read(deployment: Deployment, key: str) -> bytes:
    return bytes(deployment.client("s3").get_object(Bucket=deployment.data_bucket, Key=key)["Body"].read())


def photos_of(dataset: Path) -> list[Shown]:
    """Those that a page can show."""
    photos = [path for path in sorted(dataset.iterdir()) if path.suffix.lower() in MEDIA_TYPES]
    return [_shown(path, path.name) for path in photos]


def _shown(path: Path, label: str) -> Shown:
    return Shown(label, MEDIA_TYPES.get(path.suffix.lower(), "image/png"), path.read_bytes())
