"""lambdas/domain/datasets.py"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from contracts.errors import EmptyDataset, InvalidFileName, TooManyImages
from contracts.pipeline import Run, StageEntry, TakenFile
from lambdas.domain.datasets import dataset_id, is_settled_by, is_superseded, lay_out, shortened


def files(*paths: str) -> list[TakenFile]:
    return [TakenFile(path=path, etag=f"e-{path}", size=1) for path in paths]


def test_photos_class_images_and_everything_else_are_told_apart() -> None:
    layout = lay_out(files("b.PNG", "a.jpg", "dataset_info.json", "notes.txt", ".hidden.png", "sub/c.png",
                           "class_data_dir/1.webp", "class_data_dir/x.txt"))  # fmt: skip
    assert [file.path for file in layout.instance_images] == ["a.jpg", "b.PNG"]
    assert [file.path for file in layout.class_images] == ["class_data_dir/1.webp"]
    assert layout.ignored == [".hidden.png", "class_data_dir/x.txt", "notes.txt", "sub/c.png"]


def test_further_subjects_lie_in_their_folders_and_captions_beside_their_photos() -> None:
    given = files("a.png", "a.txt", "b.txt", "cup/1.png", "cup/1.txt", "cup/deep/2.png", "other/3.png",
                  "cup/class_data_dir/c.png", "class_data_dir/d.png")  # fmt: skip
    layout = lay_out(given, ["cup"])
    assert [file.path for file in layout.instance_images] == ["a.png", "cup/1.png"]
    assert [file.path for file in layout.class_images] == ["class_data_dir/d.png", "cup/class_data_dir/c.png"]
    assert [file.path for file in layout.captions] == ["a.txt", "cup/1.txt"]
    assert layout.ignored == ["b.txt", "cup/deep/2.png", "other/3.png"]
    with pytest.raises(EmptyDataset, match=r"mug/, which dataset_info\.json names") as refused:
        lay_out(given, ["cup", "mug"])
    assert "mug/" in refused.value.cure


@pytest.mark.parametrize(
    "name", ["my photo (1).jpg", "Žluťoučký kůň.png", "日本.jpeg", "a..b.png", "Screenshot\u202f1.png", "a\u00a0b.png"]
)
def test_unusual_names_are_fine(name: str) -> None:
    assert lay_out(files(name)).instance_images[0].path == name


@pytest.mark.parametrize(
    "name", ["../a.png", "x/../../a.png", "./a.png", "a//b.png", "a\nb.png", "😀" * 100 + ".png", "a\\b.png"]
)
def test_names_that_could_escape_or_hide_are_refused(name: str) -> None:
    with pytest.raises(InvalidFileName):
        lay_out(files("good.png", name))


@pytest.mark.parametrize("paths", [("dataset_info.json",), ("notes.txt", "photo.tiff")])
def test_a_dataset_without_a_photo_is_empty_and_says_what_it_holds(paths: tuple[str, ...]) -> None:
    with pytest.raises(EmptyDataset) as caught:
        lay_out(files(*paths))
    for path in set(paths) - {"dataset_info.json"}:
        assert path in caught.value.cause


def test_a_long_list_of_ignored_files_is_shortened_on_its_way() -> None:
    assert shortened(["a"] * 20) == ["a"] * 20
    assert shortened(["a"] * 600)[20:] == ["and 580 more"]


def test_three_hundred_photos_are_too_many() -> None:
    with pytest.raises(TooManyImages, match="300"):
        lay_out(files(*(f"{n}.png" for n in range(300))))


def test_the_id_depends_on_contents_and_not_on_order() -> None:
    one, two = files("a.png", "b.png")
    assert dataset_id("bucket", "dog", [one, two]) == dataset_id("bucket", "dog", [two, one])
    changed = two.model_copy(update={"etag": "other"})
    assert dataset_id("bucket", "dog", [one, changed]) != dataset_id("bucket", "dog", [one, two])
    assert dataset_id("bucket", "cat", [one, two]) != dataset_id("bucket", "dog", [one, two])
    assert dataset_id("other", "dog", [one, two]) != dataset_id("bucket", "dog", [one, two])


def test_an_event_is_superseded_by_a_later_upload_only() -> None:
    event = datetime(2026, 1, 1, tzinfo=UTC)
    assert not is_superseded(event, event)
    assert not is_superseded(event, event + timedelta(seconds=1))
    assert is_superseded(event, event + timedelta(seconds=2))


@pytest.mark.parametrize("off", [timedelta(minutes=-4), timedelta(0), timedelta(minutes=4)])
def test_a_failed_run_answers_what_was_uploaded_before_it_was_taken_whatever_our_clock_says(off: timedelta) -> None:
    uploaded = datetime(2026, 1, 1, 12, tzinfo=UTC)
    failed = Run(
        id="dog-1",
        dataset_id="1",
        status="failed",
        stage="failed",
        stages=[StageEntry(stage="failed", at=uploaded + timedelta(seconds=70) + off)],
        uploaded_at=uploaded,
    )
    assert is_settled_by(failed, newest=True, newest_upload=uploaded)
    assert not is_settled_by(failed, newest=True, newest_upload=uploaded + timedelta(seconds=90))
    assert not is_settled_by(failed, newest=False, newest_upload=uploaded)
    running = failed.model_copy(update={"status": "running"})
    assert is_settled_by(running, newest=True, newest_upload=uploaded + timedelta(seconds=90))
