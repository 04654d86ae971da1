"""From the drop to a subject that can be drawn, or to a failure that says why."""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from contracts.artifact import BaseModelManifest, VersionManifest, checksum_of
from contracts.generation import GenerationRequest
from contracts.pipeline import DatasetReport
from contracts.storage import (
    CLASS_IMAGE_SETS,
    MANIFEST,
    base_model_prefix,
    class_image_folder,
    dataset_prefix,
    report_key,
    snapshot_prefix,
    version_manifest_key,
)
from dreamdrop.api import fetch
from tests.e2e.conftest import TINY, Cloud, Inbox, dataset_info, photo, until

pytestmark = pytest.mark.e2e


def read(cloud: Cloud, key: str) -> bytes:
    content: bytes = cloud.s3.get_object(Bucket=cloud.deployment.data_bucket, Key=key)["Body"].read()
    return content


def test_photos_dropped_in_any_order_become_a_subject_and_pictures(cloud: Cloud, inbox: Inbox) -> None:
    cloud.drop(
        "ball",
        {
            "my photo (1).png": photo(1),
            "dataset_info.json": dataset_info(),
            "ünïcödé – 日本.jpg": photo(2, "JPEG"),
            "notes.txt": b"not a photo",
            "c.webp": photo(3, "WEBP"),
        },
    )
    seen = []
    ready = cloud.client.wait_until_ready("ball", seen.append, poll_seconds=0.1)
    run = ready.run
    assert run is not None
    stages = ["taken", "checking", "planning", "training", "judging", "publishing", "hosting", "ready"]
    assert [entry.stage for entry in run.stages] == stages
    assert run.ignored == ["notes.txt"]
    assert run.receipt is not None
    assert run.receipt.billable_seconds >= 1
    assert (run.receipt.dollars, run.receipt.jobs[0].price) == (0, None)  # nobody bills for this machine
    assert any(subject.run and subject.run.progress and subject.run.progress.total_steps == 8 for subject in seen)

    report = DatasetReport.model_validate_json(read(cloud, report_key("ball", run.dataset_id)))
    assert report.accepted
    snapshot = cloud.s3.list_objects_v2(
        Bucket=cloud.deployment.data_bucket, Prefix=snapshot_prefix("ball", run.dataset_id)
    )
    assert "notes.txt" not in json.dumps([item["Key"] for item in snapshot["Contents"]])
    version = VersionManifest.model_validate_json(read(cloud, version_manifest_key("ball", str(ready.version))))
    assert version.artifact.training.steps == 8

    request = GenerationRequest(
        subject="ball", prompt="a photo of sks ball", num_images_per_prompt=2, num_inference_steps=3, seed=11
    )
    accepted = cloud.client.generate(request, idempotency_key="first")
    assert cloud.client.generate(request, idempotency_key="first").id == accepted.id
    drawn = cloud.client.wait_for_generation(accepted.id, poll_seconds=0.1)
    assert [picture.seed for picture in drawn.images] == [11, 12]
    assert drawn.timings.compute_ms is not None
    again = cloud.client.wait_for_generation(
        cloud.client.generate(request.model_copy(update={"num_images_per_prompt": 1, "seed": 12})).id
    )
    pictures = [fetch(picture.url) for picture in [*drawn.images, *again.images]]
    assert all(Image.open(io.BytesIO(picture)).size == (64, 64) for picture in pictures)
    assert pictures[1] == pictures[2]  # the same seed is the same picture, alone or in company
    assert pictures[0] != pictures[1]
    told = until("the topic tells", lambda: inbox.about("ball"))
    assert [(message["event"], message["version"]) for message in told] == [("subject.ready", ready.version)]
    assert told[0]["receipt"] == run.receipt.plain()


def test_several_subjects_are_learned_together_and_then_further(cloud: Cloud) -> None:
    """A photo of a phone, a caption, a second subject in its folder; then a job that goes on from that model, and gets
    the class pictures that the first one drew."""
    mug = {"folder": "mug", "instance_prompt": "a photo of zwx mug", "class_prompt": "a photo of a mug"}

    def info(**fields: Any) -> bytes:
        prior = {"with_prior_preservation": True, "num_class_images": 2, "train_batch_size": 2}
        return json.dumps(json.loads(dataset_info(**prior)) | fields).encode()

    cloud.drop(
        "pair",
        {
            "a.heic": photo(4, "HEIF"),
            "a.txt": b"sks ball in a garden",
            "mug/b.png": photo(5),
            "dataset_info.json": info(concepts=[mug]),
        },
    )
    first = cloud.client.wait_until_ready("pair", poll_seconds=0.1)
    cloud.drop(
        "more",
        {"c.png": photo(6), "dataset_info.json": info(continue_from="pair")},
    )
    second = cloud.client.wait_until_ready("more", poll_seconds=0.1)
    manifests = [
        VersionManifest.model_validate_json(read(cloud, version_manifest_key(subject.subject, str(subject.version))))
        for subject in (first, second)
    ]
    before, after = (manifest.artifact for manifest in manifests)
    assert [concept.folder for concept in before.concepts] == ["mug"]
    assert len(before.training.samples) == 4
    assert after.training.held_out_before != before.training.held_out_before
    kept = cloud.s3.list_objects_v2(Bucket=cloud.deployment.data_bucket, Prefix=CLASS_IMAGE_SETS)
    assert len(kept["Contents"]) == 4
    sagemaker = cloud.deployment.client("sagemaker")
    job = sagemaker.describe_training_job(TrainingJobName=manifests[1].training_job)
    *names, class_images = [channel["ChannelName"] for channel in job["InputDataConfig"]]
    assert names == ["training", "model", "previous"]
    assert class_images in {class_image_folder(str(item["Key"]).split("/")[1]) for item in kept["Contents"]}


def test_one_event_delivered_fifty_times_trains_once(cloud: Cloud) -> None:
    """The same upload's event again and again, straight into the intake queue."""
    ready = cloud.client.wait_until_ready("ball")
    assert ready.run is not None
    before = [execution["name"] for execution in cloud.executions()]
    event = {
        "version": "0", "id": "1", "detail-type": "Object Created", "source": "aws.s3", "account": "000000000000",
        "time": "2100-01-01T00:00:00Z", "region": "us-east-1", "resources": [],
        "detail": {
            "version": "0", "bucket": {"name": cloud.deployment.data_bucket}, "reason": "PutObject",
            "object": {"key": dataset_prefix("ball") + "c.webp", "size": 1, "etag": "e", "sequencer": "1"},
            "request-id": "r", "requester": "000000000000", "source-ip-address": "127.0.0.1",
        },
    }  # fmt: skip
    sqs = cloud.deployment.client("sqs")
    queues = sqs.list_queues()["QueueUrls"]
    intake = next(url for url in queues if "Intake" in url and "Dead" not in url)
    for _ in range(50):
        sqs.send_message(QueueUrl=intake, MessageBody=json.dumps(event), DelaySeconds=0)

    def drained() -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        counts = sqs.get_queue_attributes(QueueUrl=intake, AttributeNames=names)["Attributes"]
        return all(counts[name] == "0" for name in names)

    until("the intake queue is empty", drained)
    assert [execution["name"] for execution in cloud.executions()] == before
    after = cloud.client.subject("ball")
    assert after.run == ready.run


def png(body: bytes, width: int = 64, height: int = 64) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


BAD_DATASETS: dict[str, tuple[dict[str, bytes], str, str]] = {
    # subject: (files, code, what the cause names)
    "no-photo": ({"dataset_info.json": dataset_info()}, "empty_dataset", "no photo"),
    "only-junk": ({"readme.md": b"x", "photo.tiff": b"y"}, "empty_dataset", "photo.tiff"),
    "no-image-opens": ({"a.png": b"\x00" * 50, "b.jpg": b"zzz"}, "unreadable_image", "a.png"),
    "truncated": ({"a.png": photo(1), "b.jpg": photo(2, "JPEG")[:-40]}, "unreadable_image", "b.jpg"),
    "text-as-png": ({"a.png": b"I am text", "b.png": photo(1)}, "unreadable_image", "a.png"),
    "info-not-json": ({"a.png": photo(), "dataset_info.json": b"{'x': 1}"}, "invalid_dataset_info", "not JSON"),
    "info-no-prompt": ({"a.png": photo(), "dataset_info.json": b"{}"}, "invalid_dataset_info", "instance_prompt"),
    "info-unknown": (
        {"a.png": photo(), "dataset_info.json": b'{"instance_prompt": "x", "foo": 1}'}, "invalid_dataset_info", "foo",
    ),
    "too-many": ({f"{n:03}.png": photo() for n in range(300)}, "too_many_images", "300"),
    "bomb": ({"a.png": png(zlib.compress(bytes(90_001)), 30_000, 30_000)}, "image_too_large", "30000×30000"),
    "dot-dot": ({"a.png": photo(), "../../escape.png": photo()}, "invalid_file_name", "escape.png"),
    "no-such-base": (
        {"a.png": photo(), "dataset_info.json": b'{"instance_prompt": "x", "base_model": "sd9"}'},
        "unknown_base_model", "sd9",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def bad_datasets(cloud: Cloud) -> None:
    for subject, (files, _, _) in BAD_DATASETS.items():
        cloud.drop(subject, files)


@pytest.mark.usefixtures("bad_datasets")
@pytest.mark.parametrize("subject", BAD_DATASETS)
def test_a_bad_dataset_ends_as_failed_with_cause_and_cure(cloud: Cloud, inbox: Inbox, subject: str) -> None:
    _, code, named = BAD_DATASETS[subject]
    run = cloud.failed(subject)
    assert run.error is not None
    assert run.error.code == code
    assert named in run.error.cause
    assert run.error.cure
    assert "training" not in {entry.stage for entry in run.stages}  # no GPU second was billed
    report = DatasetReport.model_validate_json(read(cloud, report_key(subject, run.dataset_id)))
    assert report.error == run.error
    told = until("the topic tells", lambda: inbox.about(subject))
    # The topic tells at least once, and of this one run.
    about = {(message["event"], message["run_id"], message["error"]["code"]) for message in told}
    assert about == {("subject.failed", run.id, code)}


@pytest.mark.parametrize("name", ["My Toy", "spielzeug-für-kinder", ".."])
def test_an_unusable_subject_name_is_told(cloud: Cloud, inbox: Inbox, name: str) -> None:
    cloud.drop(name, {"a.png": photo()})
    told = until("the topic tells", lambda: inbox.about(name))
    assert told[0]["error"]["code"] == "invalid_subject_name"
    listed = {subject.subject: subject for subject in cloud.client.subjects()}
    assert listed[name].status == "failed"
    assert listed[name].error is not None


def test_a_photo_that_only_decoding_shows_to_be_damaged_fails_in_the_training_job(cloud: Cloud) -> None:
    cloud.drop("damaged", {"a.png": photo(1), "b.png": png(b"no zlib stream"), "dataset_info.json": dataset_info()})
    run = cloud.failed("damaged")
    assert run.error is not None
    assert run.error.code == "unreadable_image"
    assert "b.png" in run.error.cause
    assert run.attempt == 1  # the caller's data: not tried again


def test_a_base_model_that_does_not_load_fails_the_run(cloud: Cloud) -> None:
    bucket, source, target = cloud.deployment.data_bucket, base_model_prefix(TINY), base_model_prefix("broken")
    for item in cloud.s3.list_objects_v2(Bucket=bucket, Prefix=source)["Contents"]:
        copy: dict[str, Any] = {"Bucket": bucket, "Key": item["Key"]}
        cloud.s3.copy_object(Bucket=bucket, Key=item["Key"].replace(source, target), CopySource=copy)
    cloud.s3.put_object(Bucket=bucket, Key=target + "unet/diffusion_pytorch_model.safetensors", Body=b"rubbish")
    manifest = BaseModelManifest.model_validate_json(read(cloud, source + MANIFEST))
    renamed = manifest.model_copy(update={"id": "broken", "checksum": checksum_of(manifest.files)})
    cloud.s3.put_object(Bucket=bucket, Key=target + MANIFEST, Body=renamed.model_dump_json().encode())
    info = json.loads(dataset_info()) | {"base_model": "broken"}
    cloud.drop("on-rubbish", {"a.png": photo(), "dataset_info.json": json.dumps(info).encode()})
    run = cloud.failed("on-rubbish")
    assert run.error is not None
    assert run.error.code == "invalid_base_model"


def test_a_dataset_that_changes_while_it_trains_trains_what_was_taken_and_then_the_change(cloud: Cloud) -> None:
    cloud.drop("changing", {"a.png": photo(1), "dataset_info.json": dataset_info(200)})
    first = cloud.reached("changing", "training")
    cloud.drop("changing", {"a.png": photo(2), "b.png": photo(3), "dataset_info.json": dataset_info(4)})

    def second_is_served() -> bool:
        subject = cloud.subject("changing")
        return bool(subject and subject.run and subject.run.id != first.id and subject.status == "succeeded")

    until("the second run succeeds", second_is_served)
    by_name = {execution["name"]: execution["status"] for execution in cloud.executions()}
    until("the first run ends", lambda: {e["name"]: e["status"] for e in cloud.executions()}[first.id] != "RUNNING")
    by_name = {execution["name"]: execution["status"] for execution in cloud.executions()}
    assert by_name[first.id] == "SUCCEEDED"
    served = cloud.client.subject("changing")
    assert served.run is not None
    assert served.version == served.run.version  # the newer dataset, whichever ended last
    kept = read(cloud, snapshot_prefix("changing", first.dataset_id) + "a.png")
    assert kept == photo(1)


def test_a_killed_training_is_tried_again_under_a_new_name(cloud: Cloud) -> None:
    cloud.drop("killed", {"a.png": photo(1), "dataset_info.json": dataset_info(300)})
    cloud.reached("killed", "training")
    until("the training program runs", lambda: cloud.kill("training_container"))
    ready = cloud.client.wait_until_ready("killed", poll_seconds=0.1)
    assert ready.run is not None
    assert ready.run.attempt == 2
    assert str(ready.version).endswith("-2")


def test_a_training_killed_twice_ends_as_failed(cloud: Cloud) -> None:
    cloud.drop("killed-twice", {"a.png": photo(1), "dataset_info.json": dataset_info(300)})
    for attempt in (1, 2):

        def attempted(wanted: int = attempt) -> bool:
            run = cloud.run("killed-twice")
            return bool(run and run.attempt == wanted and run.stage == "training")

        until(f"attempt {attempt}", attempted)
        until("the training program runs", lambda: cloud.kill("training_container"))
    run = cloud.failed("killed-twice")
    assert run.error is not None
    assert run.error.code == "training_killed"


def test_an_aborted_run_ends_as_failed(cloud: Cloud) -> None:
    cloud.drop("aborted", {"a.png": photo(1), "dataset_info.json": dataset_info(2000)})
    cloud.reached("aborted", "training")
    execution = next(e for e in cloud.executions() if e["name"].startswith("aborted-"))
    cloud.deployment.client("stepfunctions").stop_execution(executionArn=execution["executionArn"])
    run = cloud.failed("aborted")
    assert run.error is not None
    assert run.error.code == "interrupted"
    until("the training job ends too", lambda: cloud.kill("training_container") == 0)
