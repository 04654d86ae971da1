"""Pictures for the documents, made of the records: nothing is chosen by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.plan import BATCH, Plan, Run, Shot, drawn_name, showcase_shots, subject_shots
from benchmarks.progress import say
from benchmarks.records import Records
from benchmarks.session import Session
from toyworld.pictures import SIDE
from toyworld.subjects import PHOTO_SIDE, PHOTOS, draw_photo
from toyworld.vocabulary import Place

SHOWN_SUBJECTS = ("jolly-ball", "robot", "calico-cat")
SHOWN_PLACES: tuple[Place, ...] = ("beach", "snow", "water", "city")
SHOWN_OF_OTHERS = 4
OPENING = "a photo of "

CELL = 2 * SIDE
GAP = 8
CAPTION = 30  # pixels: two lines
HEADING = 24
COLUMNS = 8
PAPER, INK, GREY = (255, 255, 255), (30, 30, 34), (90, 90, 96)
CAPTION_FONT, HEADING_FONT = ImageFont.load_default(11), ImageFont.load_default(15)


@dataclass(frozen=True)
class Row:
    heading: str  # empty: none
    cells: Sequence[tuple[Image.Image, str]]  # a picture and its caption

    @property
    def height(self) -> int:
        return (HEADING if self.heading else 0) + CELL + CAPTION + GAP


def write_grids(directory: Path, session: Session, records: Records, plan: Plan) -> None:
    """Draws what the base model's grid lacks; subjects that are not trained yet are told and left out."""
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / "toyworld-base.png", base_rows(session))
    for subject in SHOWN_SUBJECTS:
        run = next((run for run in plan.runs() if run.subject == subject and run.prior), None)
        rows = None if run is None else subject_rows(records, plan, run)
        if rows is None:
            say(f"no pictures yet of {subject} with prior preservation")
        else:
            _write(directory / f"toyworld-{subject}.png", rows)


def base_rows(session: Session) -> list[Row]:
    shots = showcase_shots()
    pictures: list[Image.Image] = []
    for start in range(0, len(shots), BATCH):
        pictures += session.showcase(shots[start : start + BATCH])
    cells = [(picture, _caption(shot)) for picture, shot in zip(pictures, shots, strict=True)]
    return [Row("", cells[start : start + COLUMNS]) for start in range(0, len(cells), COLUMNS)]


def subject_rows(records: Records, plan: Plan, run: Run) -> list[Row] | None:
    """None while the run is not done."""
    shots = subject_shots(run.subject, run.seed)
    pictures = records.read_pictures(drawn_name(run.folder, shots, plan.sampling))
    if pictures is None:
        return None
    drawn = list(zip(shots, pictures, strict=True))
    photos = [
        (draw_photo(run.subject, number, PHOTO_SIDE), Path(name).stem.replace("-", " "))
        for number, (name, _, _) in enumerate(PHOTOS)
    ]
    own = {shot.place: (picture, _caption(shot)) for shot, picture in reversed(drawn) if shot.role == "subject"}
    plain = [(picture, _caption(shot)) for shot, picture in drawn if shot.role == "class"]
    others = [(picture, _caption(shot)) for shot, picture in drawn if shot.role == "unrelated"]
    return [
        Row("the photos", photos),
        Row("the subject elsewhere", [own[place] for place in SHOWN_PLACES]),
        Row("its class, without the rare word", plain[:SHOWN_OF_OTHERS]),
        Row("other classes", others[:SHOWN_OF_OTHERS]),
    ]


def _caption(shot: Shot) -> str:
    return shot.prompt.removeprefix(OPENING)


def compose(rows: Sequence[Row]) -> Image.Image:
    columns = max(len(row.cells) for row in rows)
    size = (GAP + columns * (CELL + GAP), GAP + sum(row.height for row in rows))
    grid = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(grid)
    top = GAP
    for row in rows:
        start = top
        if row.heading:
            pen.text((GAP, top), row.heading, fill=INK, font=HEADING_FONT)
            start += HEADING
        for column, (picture, caption) in enumerate(row.cells):
            left = GAP + column * (CELL + GAP)
            grid.paste(picture.resize((CELL, CELL), Image.Resampling.BICUBIC), (left, start))
            pen.multiline_text((left, start + CELL + 2), wrap(caption), fill=GREY, font=CAPTION_FONT, spacing=1)
        top += row.height
    return grid


def wrap(caption: str) -> str:
    """As many lines as it takes to stay within a cell."""
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if CAPTION_FONT.getlength(longer) <= CELL:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


def _write(path: Path, rows: Sequence[Row]) -> None:
    compose(rows).save(path, optimize=True)
    say(f"written: {path}")
