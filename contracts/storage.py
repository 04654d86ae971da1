"""Every S3 key and table key: built and parsed here only.

The data bucket:

    datasets/<subject>/...                              what the user drops (JumpStart's layout)
    manifests/<subject>/<dataset>.json                  the keys and ETags that were taken
    snapshots/<subject>/<dataset>/...                   the frozen, checked copy that training reads
    reports/<subject>/<dataset>.json                    what the check found
    base-models/<id>/...                                imported once, manifest.json with sha256 sums
    checkpoints/<subject>/<dataset>/                    synchronised with the training container; progress.json
    class-images/<set>/class-<k>.png                    drawn for prior preservation, kept for later jobs
    models/<subject>/<version>/<job>/output/model/...   written by SageMaker
    models/<subject>/<version>/manifest.json            written last: the version exists once this does
    models/<subject>/promoted.json                      the version that is drawn when none is named
    sources/<owner>/<id>                                pictures that others start from
    inference/output/, inference/failure/               answers of the asynchronous endpoints
    generations/<id>/image-<k>.<format>                 the pictures
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, date, datetime
from typing import NamedTuple

from contracts.errors import InvalidRequest, InvalidSubjectName

DATASETS = "datasets/"
MANIFESTS = "manifests/"
SNAPSHOTS = "snapshots/"
REPORTS = "reports/"
BASE_MODELS = "base-models/"
CHECKPOINTS = "checkpoints/"
CLASS_IMAGE_SETS = "class-images/"
MODELS = "models/"
SOURCES = "sources/"
GENERATIONS = "generations/"
DATASET_INFO = "dataset_info.json"
CLASS_IMAGES = "class_data_dir/"
MANIFEST = "manifest.json"
PROGRESS = "progress.json"
PROMOTED = "promoted.json"
INFERENCE = "inference/"
INFERENCE_OUTPUT = f"{INFERENCE}output"
INFERENCE_FAILURE = f"{INFERENCE}failure"

MADE_OF_A_SUBJECT = (MODELS, CHECKPOINTS, SNAPSHOTS, MANIFESTS, REPORTS, DATASETS)  # each has a folder a subject

MAX_SUBJECT_LENGTH = 32
SUBJECT_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"
CONTINUE_FROM_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*(@[a-f0-9]{12}-[0-9]{1,2})?$"  # subject or subject@version
PREVIOUS_MODEL = "previous"  # the channel of a training job that goes on from it
OWN_SUBJECT = "subject"  # the model data source of an endpoint that draws one subject only
VERSION_PATTERN = r"^[a-f0-9]{12}-[0-9]{1,2}$"
MAX_BASE_MODEL_LENGTH = 32
BASE_MODEL_PATTERN = r"^[a-z0-9]+([-.][a-z0-9]+)*$"
MAX_RESOURCE_PREFIX_LENGTH = 14
RESOURCE_PREFIX_PATTERN = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
GENERATION_PATTERN = r"^[a-f0-9]{32}$"
SOURCE_PATTERN = r"^sources/[a-f0-9]{16}/[a-f0-9]{32}$"


def is_subject(name: str) -> bool:
    return len(name) <= MAX_SUBJECT_LENGTH and re.fullmatch(SUBJECT_PATTERN, name) is not None


def check_subject(name: str) -> str:
    """Returns the name; raises InvalidSubjectName."""
    if not is_subject(name):
        raise InvalidSubjectName(f"The subject name {name[:80]!r} is not usable.")
    return name


class DatasetKey(NamedTuple):
    subject: str  # as dropped: not yet checked
    file: str  # relative to the dataset; may hold slashes


def parse_dataset_key(key: str) -> DatasetKey | None:
    """datasets/<subject>/<file> -> its parts; None for anything else: folder markers, files in no subject's folder."""
    if not key.startswith(DATASETS):
        return None
    subject, slash, file = key.removeprefix(DATASETS).partition("/")
    return DatasetKey(subject, file) if subject and slash and file and not file.endswith("/") else None


def dataset_prefix(subject: str) -> str:
    return f"{DATASETS}{subject}/"


def subject_prefixes(subject: str) -> list[str]:
    """Of everything that was dropped as a subject or made from that: its pictures are elsewhere."""
    return [f"{folder}{subject}/" for folder in MADE_OF_A_SUBJECT]


def models_prefix(subject: str) -> str:
    """Of all versions, and of the word which of them is drawn."""
    return f"{MODELS}{subject}/"


def taken_manifest_key(subject: str, dataset_id: str) -> str:
    return f"{MANIFESTS}{subject}/{dataset_id}.json"


def snapshot_prefix(subject: str, dataset_id: str) -> str:
    return f"{SNAPSHOTS}{subject}/{dataset_id}/"


def report_key(subject: str, dataset_id: str) -> str:
    return f"{REPORTS}{subject}/{dataset_id}.json"


def base_model_prefix(base_model: str) -> str:
    if len(base_model) > MAX_BASE_MODEL_LENGTH or not re.fullmatch(BASE_MODEL_PATTERN, base_model):
        raise InvalidRequest(f"The base model id {base_model[:80]!r} is not usable.")
    return f"{BASE_MODELS}{base_model}/"


def as_resource_name(base_model: str) -> str:
    """Names of SageMaker's resources have no dots. Of base models that would be called alike, the first is imported."""
    return base_model.replace(".", "-")


def checkpoint_prefix(subject: str, dataset_id: str) -> str:
    """One for all attempts at a dataset, so that the next attempt goes on where the last one was cut off."""
    return f"{CHECKPOINTS}{subject}/{dataset_id}/"


def class_image_set(base_model_checksum: str, class_prompt: str, resolution: int, seed: int) -> str:
    """Twelve hex digits that name the class pictures which a base model draws: the same ones in every job."""
    identity = json.dumps([base_model_checksum, class_prompt, resolution, seed])
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def class_image_set_prefix(image_set: str) -> str:
    return f"{CLASS_IMAGE_SETS}{image_set}/"


def class_image_folder(image_set: str) -> str:
    """Of a checkpoint folder, and the channel of a training job that brings a kept set."""
    return f"class_images-{image_set}"


def progress_key(subject: str, dataset_id: str) -> str:
    return checkpoint_prefix(subject, dataset_id) + PROGRESS


def version_prefix(subject: str, version: str) -> str:
    """Raises InvalidRequest for anything that was not made by `version_id`."""
    if not re.fullmatch(VERSION_PATTERN, version):
        raise InvalidRequest(f"The version {version[:80]!r} is not one of ours.")
    return f"{MODELS}{check_subject(subject)}/{version}/"


def version_manifest_key(subject: str, version: str) -> str:
    return version_prefix(subject, version) + MANIFEST


def promoted_key(subject: str) -> str:
    return f"{MODELS}{check_subject(subject)}/{PROMOTED}"


def source_prefix(owner: str) -> str:
    """Of an authenticated principal; its name is not to be read in a key."""
    return f"{SOURCES}{hashlib.sha256(owner.encode()).hexdigest()[:16]}/"


def generation_prefix(generation_id: str) -> str:
    return f"{GENERATIONS}{generation_id}/"


def image_key(generation_id: str, index: int, extension: str) -> str:
    return f"{generation_prefix(generation_id)}image-{index}.{extension}"


def version_id(dataset_id: str, attempt: int) -> str:
    """One version an attempt: a retried job must have a new name and may leave half a model behind."""
    return f"{dataset_id}-{attempt}"


def run_id(subject: str, dataset_id: str) -> str:
    """Also the execution's name: the same dataset cannot run twice."""
    return f"{subject}-{dataset_id}"


def training_job_name(resource_prefix: str, subject: str, version: str) -> str:
    """At most 63 characters (CreateTrainingJob, TrainingJobName): 14 + 1 + 32 + 1 + 15."""
    return f"{resource_prefix}-{subject}-{version}"


class JobParts(NamedTuple):
    subject: str
    dataset_id: str
    attempt: int


def parse_training_job_name(resource_prefix: str, name: str) -> JobParts | None:
    """None for a name that `training_job_name` did not make."""
    found = re.fullmatch(rf"{re.escape(resource_prefix)}-(.+)-([a-f0-9]{{12}})-([0-9]{{1,2}})", name)
    return JobParts(found[1], found[2], int(found[3])) if found else None


class TableKey(NamedTuple):
    pk: str
    sk: str


ALL_SUBJECTS = "SUBJECTS"
ALL_DELETIONS = "DELETIONS"
LINES = "ENDPOINT#"  # begins the partitions of what waits for an endpoint


def subject_item(subject: str) -> TableKey:
    return TableKey(ALL_SUBJECTS, subject)


def run_item(subject: str, run: str) -> TableKey:
    return TableKey(f"SUBJECT#{subject}", f"RUN#{run}")


def spending_item(owner: str, day: date) -> TableKey:
    """What an owner's trainings of a day cost, and may yet cost."""
    return TableKey(f"SPENDING#{owner}", day.isoformat())


def generation_item(generation_id: str) -> TableKey:
    return TableKey(f"GENERATION#{generation_id}", "META")


def drawn_item(subject: str, generation_id: str) -> TableKey:
    """Says that the subject is in the pictures of the generation, alone or with others."""
    return TableKey(f"SUBJECT#{subject}", f"GENERATION#{generation_id}")


def waiting_item(endpoint_name: str, created_at: datetime, generation_id: str = "") -> TableKey:
    """Says that an endpoint owes an answer. In the order of the requests, hence the time in one format."""
    at = created_at.astimezone(UTC).isoformat(timespec="microseconds")
    return TableKey(f"{LINES}{endpoint_name}", f"QUEUED#{at}#{generation_id}")


def wanted_classes_item(subject: str, image_set: str) -> TableKey:
    """Says that the subject's training uses the set of class pictures."""
    return TableKey(f"SUBJECT#{subject}", f"CLASS_IMAGES#{image_set}")


def class_user_item(image_set: str, subject: str) -> TableKey:
    """The same, to be found by the set."""
    return TableKey(f"CLASS_IMAGES#{image_set}", f"SUBJECT#{subject}")


def deletion_item(subject: str, finished_at: str) -> TableKey:
    """No subject's name holds a slash, so the records of one are found by the start of their keys."""
    return TableKey(ALL_DELETIONS, f"{subject}/{finished_at}")
