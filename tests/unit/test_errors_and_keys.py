"""contracts/errors.py and contracts/storage.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from contracts import errors, storage
from contracts.errors import ERRORS_BY_CODE, DreamdropError, InvalidRequest, InvalidSubjectName, parse_error


@pytest.mark.parametrize("error", ERRORS_BY_CODE.values())
def test_every_error_survives_the_way_through_text(error: type[DreamdropError]) -> None:
    raised = error("It went wrong: at 3: here.")
    for wrapped in (str(raised), f"AlgorithmError: {raised}", f"AlgorithmError: \n{raised}"):
        found = parse_error(wrapped)
        assert type(found) is error
        assert found.report == raised.report


def test_an_error_cut_short_keeps_its_code() -> None:
    text = str(errors.OutOfMemory("x" * 2000))[:1024]
    assert isinstance(parse_error(text), errors.OutOfMemory)


def test_text_without_a_code_is_no_error() -> None:
    assert parse_error("ValueError: something else") is None


def test_who_is_told_to_delete_photos_is_told_that_an_upload_has_to_follow() -> None:
    """A deletion starts nothing."""
    deleting = [error for error in ERRORS_BY_CODE.values() if re.search(r"(?i)\bdelet", error.default_cure)]
    assert {errors.UnreadableImage, errors.TooManyImages} <= set(deleting)
    for error in deleting:
        assert re.search(r"upload any file again", error.default_cure), error.code


def test_the_drawn_tree_names_every_code_and_status() -> None:
    drawing = errors.__doc__ or ""
    for code, error in ERRORS_BY_CODE.items():
        assert re.search(rf"{error.__name__}\b.*\b{code}\b", drawing), f"{error.__name__} is not drawn"
        if issubclass(error, errors.CallerError):
            assert re.search(rf"{error.__name__} +{error.status} +{code}", drawing)
            assert 400 <= error.status < 500


@pytest.mark.parametrize("name", ["dog", "red-panda-2", "a" * 32])
def test_a_plain_name_is_a_subject(name: str) -> None:
    assert storage.check_subject(name) == name


@pytest.mark.parametrize(
    "name", ["", "Dog", "my dog", "dög", "..", "a..b", "-dog", "dog-", "a--b", "a" * 33, "dog\n", "a/b"]
)
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidSubjectName):
        storage.check_subject(name)


def test_only_files_of_a_dataset_are_dataset_keys() -> None:
    assert storage.parse_dataset_key("datasets/dog/a b.png") == ("dog", "a b.png")
    assert storage.parse_dataset_key("datasets/dog/class_data_dir/1.png") == ("dog", "class_data_dir/1.png")
    for other in (
        "datasets/dog/",
        "datasets/dog",
        "datasets/",
        "datasets//a.png",
        "models/dog/1.png",
        "datasets/dog/sub/",
    ):
        assert storage.parse_dataset_key(other) is None


def test_the_longest_job_name_fits_sagemaker() -> None:
    version = storage.version_id("0" * 12, 99)
    name = storage.training_job_name(
        "a" * storage.MAX_RESOURCE_PREFIX_LENGTH, "b" * storage.MAX_SUBJECT_LENGTH, version
    )
    assert len(name) <= 63
    assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*", name)


@pytest.mark.parametrize("subject", ["dog", "red-panda-2", "0123456789ab-1"])
def test_a_job_name_is_read_back(subject: str) -> None:
    name = storage.training_job_name("team-a", subject, storage.version_id("0123456789ab", 12))
    assert storage.parse_training_job_name("team-a", name) == (subject, "0123456789ab", 12)


@pytest.mark.parametrize("name", ["team-dog-0123456789ab-1", "team-a-dog-0123456789ab", "team-a-0123456789ab-1", "x"])
def test_a_job_name_of_others_is_none_of_ours(name: str) -> None:
    assert storage.parse_training_job_name("team-a", name) is None


@pytest.mark.parametrize("version", ["../../secrets", "0123456789ab-1/..", "0123456789ab", ""])
def test_a_made_up_version_never_becomes_a_key(version: str) -> None:
    with pytest.raises(InvalidRequest):
        storage.version_prefix("dog", version)


def test_a_source_key_is_told_apart_by_owner_and_does_not_tell_who() -> None:
    mine, theirs = (storage.source_prefix(f"arn:aws:iam::1:user/{name}") for name in ("me", "you"))
    assert mine != theirs
    assert "user" not in mine
    assert re.fullmatch(storage.SOURCE_PATTERN, mine + "0" * 32)


def test_keys_are_built_in_one_place_only() -> None:
    root = Path(__file__).resolve().parents[2]
    prefixes = re.compile(
        r"[\"'](datasets|manifests|snapshots|reports|base-models|checkpoints|models|generations|sources)/"
    )
    for folder in ("lambdas", "training_container", "inference_container", "infra"):
        for file in (root / folder).rglob("*.py"):
            assert not prefixes.search(file.read_text()), f"{file} spells a key out; build it in contracts/storage.py"
