"""CheckDataset: every photo is judged, the request is validated, and the dataset is frozen into a snapshot.

A bad dataset ends here, with a report beside it, and no GPU second is billed.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from contracts.artifact import BaseModelManifest
from contracts.environment import CheckEnvironment
from contracts.errors import (
    DreamdropError,
    ImageTooLarge,
    InternalError,
    InvalidDatasetInfo,
    InvalidPreviousModel,
    UnreadableImage,
)
from contracts.pipeline import DatasetChecked, DatasetReport, DatasetTaken, ImageFinding, TakenFile, TakenManifest
from contracts.steps import require_a_warmup_that_ends
from contracts.storage import (
    DATASET_INFO,
    dataset_prefix,
    report_key,
    snapshot_prefix,
    taken_manifest_key,
)
from contracts.training import (
    MAX_DATASET_INFO_BYTES,
    MAX_IMAGE_BYTES,
    DatasetInfo,
    TrainingRequest,
    as_before,
    settle_hyperparameters,
)
from lambdas.adapters.configuration import environment
from lambdas.adapters.data_bucket import DataBucket
from lambdas.adapters.table import Subjects
from lambdas.domain.datasets import Layout, info_of, lay_out, shortened, shown
from lambdas.domain.images import TooLarge, Unreadable, inspect
from lambdas.pipeline.state import state

PARALLEL_READS = 8


@state(DatasetTaken)
def handler(taken: DatasetTaken) -> DatasetChecked:
    env = environment(CheckEnvironment)
    bucket = DataBucket(env.data_bucket)
    subjects = Subjects(env.table_name)
    subjects.enter(taken, "checking")
    content = bucket.read(taken_manifest_key(taken.subject, taken.dataset_id))
    if content is None:
        raise InternalError(f"The manifest of dataset {taken.dataset_id} is gone.")
    report = DatasetReport(
        subject=taken.subject,
        dataset_id=taken.dataset_id,
        accepted=False,
        request=None,
        images=[],
        class_images=0,
        ignored=[],
        error=None,
    )
    try:
        files = TakenManifest.model_validate_json(content).files
        request = _request(bucket, taken.subject, info_of(files), env)
        layout = lay_out(files, [concept.folder for concept in request.concepts])
        report = report.model_copy(update={"ignored": layout.ignored, "class_images": len(layout.class_images)})
        report = report.model_copy(update={"request": request, "images": _judge(bucket, taken.subject, layout)})
        _refuse_bad_images(report.images, report_key(taken.subject, taken.dataset_id))
        base = bucket.base_model(request.base_model)
        request = _settled(_going_on(request, base, bucket, subjects), base)
        _require_a_warmup_that_ends(request, len(layout.instance_images))
        _freeze(bucket, taken, layout, request)
        report = report.model_copy(update={"accepted": True, "request": request})
    except DreamdropError as error:
        report = report.model_copy(update={"error": error.report})
        raise
    finally:
        bucket.write(report_key(taken.subject, taken.dataset_id), report.model_dump_json(indent=2).encode())
    return DatasetChecked(
        **taken.model_dump(),
        request=request,
        instance_images=len(layout.instance_images),
        class_images=len(layout.class_images),
        ignored=shortened(layout.ignored),
    )


def _request(bucket: DataBucket, subject: str, file: TakenFile | None, env: CheckEnvironment) -> TrainingRequest:
    if file is None:
        info = DatasetInfo.from_subject_name(subject)
    elif file.size > MAX_DATASET_INFO_BYTES:  # told by the listing: not even read
        raise InvalidDatasetInfo(f"dataset_info.json has {file.size:,} bytes; at most {MAX_DATASET_INFO_BYTES:,}.")
    else:
        info = DatasetInfo.parse(bucket.read_unchanged(dataset_prefix(subject) + DATASET_INFO, file.etag))
    return TrainingRequest(
        subject=subject,
        base_model=info.base_model or env.default_base_model,
        instance_prompt=info.instance_prompt,
        class_prompt=info.class_prompt,
        concepts=info.concepts,
        continue_from=info.continue_from,
        hosting=info.hosting or env.default_hosting,
        hyperparameters=info.hyperparameters,
    )


def _going_on(
    request: TrainingRequest, base: BaseModelManifest, bucket: DataBucket, subjects: Subjects
) -> TrainingRequest:
    """Finds the model that the training goes on from, if it does. Raises InvalidPreviousModel."""
    if request.continue_from is None:
        return request
    name, _, version = request.continue_from.partition("@")
    found = None if version else subjects.one(name)
    version = version or (found.version if found else None) or ""
    manifest = bucket.version_manifest(name, version) if version else None
    if manifest is None:
        raise InvalidPreviousModel(f"continue_from: there is no model {request.continue_from}.")
    if manifest.artifact.base_model_checksum != base.checksum:
        raise InvalidPreviousModel(
            f"continue_from: {name} was trained on {manifest.artifact.base_model}, this dataset asks for {base.id}."
        )
    try:
        hyperparameters = as_before(request.hyperparameters, manifest.artifact.hyperparameters)
    except ValueError as error:
        raise InvalidPreviousModel(f"continue_from: {error}.") from error
    return request.model_copy(
        update={
            "continue_from": f"{name}@{version}",
            "previous_prefix": manifest.prefix,
            "hyperparameters": hyperparameters,
        }
    )


def _settled(request: TrainingRequest, base: BaseModelManifest) -> TrainingRequest:
    """Here, because from here on the request is JSON, in which nothing is left open any more."""
    class_prompts = [request.class_prompt, *(concept.class_prompt for concept in request.concepts)]
    hyperparameters = settle_hyperparameters(
        request.hyperparameters, base.training_defaults, base.resolution, has_classes=all(class_prompts)
    )
    return request.model_copy(update={"hyperparameters": hyperparameters})


def _require_a_warmup_that_ends(request: TrainingRequest, instance_images: int) -> None:
    """Raises InvalidDatasetInfo."""
    wanted = request.hyperparameters
    try:
        require_a_warmup_that_ends(wanted, wanted.total_steps(instance_images))
    except ValueError as error:
        cure = "Lower lr_warmup_steps, or raise max_steps."
        raise InvalidDatasetInfo(f"dataset_info.json: {error}.", cure) from error


def _judge(bucket: DataBucket, subject: str, layout: Layout) -> list[ImageFinding]:
    def one(file: TakenFile) -> ImageFinding:
        if file.size > MAX_IMAGE_BYTES:  # told by the listing: not even read
            problem = f"too large: {file.size // 2**20} MiB; at most {MAX_IMAGE_BYTES // 2**20} MiB"
            return ImageFinding(path=file.path, format=None, width=None, height=None, problem=problem)
        content = bucket.read_unchanged(dataset_prefix(subject) + file.path, file.etag)
        try:
            facts = inspect(content)
        except (Unreadable, TooLarge) as error:
            kind = "too large" if isinstance(error, TooLarge) else "unreadable"
            return ImageFinding(path=file.path, format=None, width=None, height=None, problem=f"{kind}: {error}")
        return ImageFinding(path=file.path, format=facts.format, width=facts.width, height=facts.height)

    with ThreadPoolExecutor(PARALLEL_READS) as readers:
        return list(readers.map(one, [*layout.instance_images, *layout.class_images]))


def _refuse_bad_images(findings: Iterable[ImageFinding], report: str) -> None:
    """Raises UnreadableImage, or ImageTooLarge when nothing else is wrong. report: where all of them are told."""
    problems = [(finding.path, *finding.problem.partition(": ")) for finding in findings if finding.problem]
    if not problems:
        return
    named = shown([f"{path!r} ({reason})" for path, _, _, reason in problems], f": see {report}")
    kinds = {kind for _, kind, _, _ in problems}
    raise (ImageTooLarge if kinds == {"too large"} else UnreadableImage)(f"These photos cannot be used: {named}.")


def _freeze(bucket: DataBucket, taken: DatasetTaken, layout: Layout, request: TrainingRequest) -> None:
    """What is trained is what was checked, whatever happens to the dataset from now on."""
    source, target = dataset_prefix(taken.subject), snapshot_prefix(taken.subject, taken.dataset_id)
    with ThreadPoolExecutor(PARALLEL_READS) as copies:
        done = [
            copies.submit(bucket.copy_unchanged, source + file.path, file.etag, target + file.path)
            for file in [*layout.instance_images, *layout.class_images, *layout.captions]
        ]
        for copy in done:
            copy.result()
    bucket.write(target + DATASET_INFO, request.dataset_info().model_dump_json().encode())
