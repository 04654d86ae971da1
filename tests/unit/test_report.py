"""The report of the demo: a page that needs nothing else, and a grid that shows the pictures it was given."""

from __future__ import annotations

import base64
import io
from datetime import date
from html.parser import HTMLParser
from typing import Any

import pytest
from PIL import Image, ImageFont

from contracts.artifact import TrainingSummary
from contracts.pipeline import DatasetReport, ImageFinding, JobReceipt, Price, Quote, Receipt
from dreamdrop.progress import describe_receipt
from dreamdrop.report import GAP, HEADING_HEIGHT, LABEL_HEIGHT, TILE, Journey, Shown, draw_grid, render_html, wrap


def picture(colour: str, label: str = "a photo", side: int = 64) -> Shown:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return Shown(label, "image/png", file.getvalue())


def job(**more: Any) -> JobReceipt:
    price = Price(dollars_an_hour=1.408, region="us-east-1", date=date(2026, 8, 17))
    values = {"attempt": 1, "instance_type": "ml.g5.xlarge", "price": price, "training_seconds": 900}
    return JobReceipt.model_validate({**values, "billable_seconds": 900, "dollars": 0.352, **more})


@pytest.fixture
def journey() -> Journey:
    return Journey(
        subject="robot",
        instance_prompt="a photo of sks <robot>",
        photos=[picture("red"), picture("green")],
        pictures=[picture("blue", "a photo of sks robot on the beach")],
        stages=[("checking", 1.25), ("training", 12.0)],
        timings={"seconds from last upload to training": 4.2},
        training=TrainingSummary(
            steps=60, seconds=11, first_loss=0.9, last_loss=0.4, held_out_before=0.8, held_out_after=0.5, samples=[]
        ),
        quote=Quote(
            instance_type="ml.g5.xlarge", steps=60, seconds=300, dollars=0.12, limit_seconds=900, limit_dollars=0.36
        ),
        receipt=Receipt.of([job(price=None, dollars=0)]),
        dataset=DatasetReport(
            subject="robot",
            dataset_id="d",
            accepted=True,
            request=None,
            images=[ImageFinding(path="a.png", format="PNG", width=256, height=256)],
            class_images=0,
            ignored=["notes.txt"],
            error=None,
        ),
        note="Drawn by sd <2>.",
        losses=[(1, 0.9), (30, 0.6), (60, 0.4)],
    )


@pytest.mark.parametrize(
    ("jobs", "told"),
    [
        ([job()], "$0.35 for 900 s on ml.g5.xlarge"),
        (
            [job(), job(attempt=2, instance_type="ml.g6.xlarge", dollars=0.3, billable_seconds=300, saved_dollars=0.6)],
            "$0.65 for 1200 s on ml.g5.xlarge, ml.g6.xlarge in 2 attempts; spot saved $0.60 (48 %)",
        ),
        ([job(price=None, dollars=0)], "nothing is billed on this machine, where training took 900 s"),
    ],
)
def test_a_receipt_in_words(jobs: list[JobReceipt], told: str) -> None:
    assert describe_receipt(Receipt.of(jobs)) == told


def test_the_page_does_not_make_a_bill_of_a_laptops_seconds(journey: Journey) -> None:
    assert "nothing is billed on this machine" in render_html(journey)


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_holds_every_picture_and_fetches_nothing(journey: Journey) -> None:
    page = Links()
    page.feed(render_html(journey))
    assert len(page.sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert base64.b64decode(page.sources[2].partition(",")[2]) == journey.pictures[0].content
    assert not {"script", "link", "iframe"} & set(page.tags)


def test_the_page_tells_stages_losses_price_and_what_was_left_out(journey: Journey) -> None:
    page = render_html(journey)
    for told in (
        "training</td><td>12.0",
        "4.2",
        "0.9000 → 0.4000",
        "$0.12",
        "notes.txt",
        "on the beach",
        "<polyline",
        "Drawn by sd &lt;2&gt;.",
    ):
        assert told in page


def test_text_from_a_dataset_cannot_become_markup(journey: Journey) -> None:
    page = render_html(journey)
    assert "sks &lt;robot&gt;" in page
    assert "<robot>" not in page


def test_the_grid_shows_photos_above_pictures(journey: Journey) -> None:
    with Image.open(io.BytesIO(draw_grid(journey.photos, journey.pictures, journey.note))) as grid:
        assert grid.width == GAP + 2 * (TILE + GAP)
        middle = GAP + TILE // 2
        below = HEADING_HEIGHT + TILE + LABEL_HEIGHT
        top = GAP + HEADING_HEIGHT + TILE // 2
        assert grid.getpixel((middle, top)) == (255, 0, 0)
        assert grid.getpixel((middle + TILE + GAP, top)) == (0, 128, 0)
        assert grid.getpixel((middle, top + below)) == (0, 0, 255)
        assert grid.getpixel((middle + TILE + GAP, top + below)) == (255, 255, 255)


def test_a_small_picture_is_enlarged_smoothly() -> None:
    file = io.BytesIO()
    Image.linear_gradient("L").rotate(90).resize((64, 64)).save(file, "PNG")
    content = draw_grid([Shown("a ramp", "image/png", file.getvalue())], [], "")
    with Image.open(io.BytesIO(content)) as grid:
        line = [grid.getpixel((GAP + x, GAP + HEADING_HEIGHT + TILE // 2))[0] for x in range(TILE)]
    assert len(set(line)) > 64  # shades that the 64 columns do not have


def test_long_labels_are_broken_at_spaces_to_fit() -> None:
    font = ImageFont.load_default(12)
    lines = wrap("a photo of sks robot on the beach at night in the rain", font, 100)
    assert " ".join(lines) == "a photo of sks robot on the beach at night in the rain"
    assert len(lines) > 1
    assert all(font.getlength(line) <= 100 for line in lines)
