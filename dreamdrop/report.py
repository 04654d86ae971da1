"""What a journey looked like: one grid of pictures, one self-contained HTML page. Pure functions, no I/O."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

from contracts.artifact import TrainingSummary
from contracts.pipeline import DatasetReport, Quote, Receipt
from dreamdrop.progress import describe_receipt

TILE = 192
GAP = 12
LABEL_HEIGHT = 40
HEADING_HEIGHT = 34
INK, FAINT, PAPER = "#20242a", "#6b7280", "#ffffff"
CHART_WIDTH, CHART_HEIGHT = 640, 160


@dataclass(frozen=True)
class Shown:
    """A picture as it was uploaded or drawn."""

    label: str
    media_type: str
    content: bytes


@dataclass(frozen=True)
class Journey:
    subject: str
    instance_prompt: str
    photos: list[Shown]
    pictures: list[Shown]
    stages: list[tuple[str, float]]  # name, seconds
    timings: dict[str, float]  # name, seconds or megabytes
    training: TrainingSummary
    quote: Quote | None
    receipt: Receipt | None
    dataset: DatasetReport
    note: str  # what drew the pictures
    losses: list[tuple[int, float]] = field(default_factory=list)  # step, mean loss, as seen while it trained


def draw_grid(photos: list[Shown], pictures: list[Shown], note: str) -> bytes:
    """PNG: the photos in the upper row, the pictures in the lower one, each with its label below; then the note."""
    columns = max(len(photos), len(pictures), 1)
    row_height = HEADING_HEIGHT + TILE + LABEL_HEIGHT
    grid = Image.new("RGB", (GAP + columns * (TILE + GAP), 2 * row_height + LABEL_HEIGHT), PAPER)
    for row, (heading, shown) in enumerate((("Photos in", photos), ("Pictures out", pictures))):
        top = GAP + row * row_height
        ImageDraw.Draw(grid).text((GAP, top), heading, fill=INK, font=ImageFont.load_default(20))
        for column, picture in enumerate(shown):
            _place(grid, picture, GAP + column * (TILE + GAP), top + HEADING_HEIGHT)
    ImageDraw.Draw(grid).text((GAP, GAP + 2 * row_height), note, fill=INK, font=ImageFont.load_default(13))
    file = io.BytesIO()
    grid.save(file, "PNG", optimize=True)
    return file.getvalue()


def _place(grid: Image.Image, shown: Shown, x: int, y: int) -> None:
    with Image.open(io.BytesIO(shown.content)) as picture:
        grid.paste(picture.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS), (x, y))
    font = ImageFont.load_default(12)
    for line, text in enumerate(wrap(shown.label, font, TILE)[:2]):
        ImageDraw.Draw(grid).text((x, y + TILE + 4 + 16 * line), text, fill=FAINT, font=font)


def wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Breaks at spaces into lines of at most `width` pixels; a longer word stands alone."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def render_html(journey: Journey) -> str:
    """The page: everything inside it, no script, nothing fetched."""
    title = f"{journey.subject}: from photos to pictures"
    sections = [
        f"<h1>{_text(title)}</h1>",
        f"<p>Learned as <q>{_text(journey.instance_prompt)}</q>.</p>",
        "<h2>Photos in</h2>",
        _gallery(journey.photos),
        "<h2>Pictures out</h2>",
        _gallery(journey.pictures),
        f"<p>{_text(journey.note)}</p>",
        "<h2>Seconds</h2>",
        _table(("stage", "seconds"), [(name, f"{seconds:.1f}") for name, seconds in journey.stages]),
        _table(("measured", "value"), [(name, f"{value:.1f}") for name, value in journey.timings.items()]),
        "<h2>Training</h2>",
        _training(journey),
        "<h2>What the check found</h2>",
        _dataset(journey.dataset),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )


STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#20242a;max-width:64rem;margin:2rem auto;padding:0 1rem}
.gallery{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0;width:11rem}
img{width:11rem;height:11rem;object-fit:cover;border-radius:.5rem;image-rendering:auto;background:#eee}
figcaption{font-size:.85rem;color:#6b7280}table{border-collapse:collapse;margin:0 0 1rem}
th,td{text-align:left;padding:.2rem 1rem .2rem 0;border-bottom:1px solid #e5e7eb}
td+td{font-variant-numeric:tabular-nums}polyline{fill:none;stroke:#0f766e;stroke-width:2}
"""


def _text(value: object) -> str:
    return html.escape(str(value))


def _gallery(shown: list[Shown]) -> str:
    figures = (
        f'<figure><img alt="{_text(picture.label)}" src="data:{_text(picture.media_type)};base64,'
        f'{base64.b64encode(picture.content).decode()}"><figcaption>{_text(picture.label)}</figcaption></figure>'
        for picture in shown
    )
    return f'<div class="gallery">{"".join(figures)}</div>'


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _training(journey: Journey) -> str:
    summary = journey.training
    rows = [
        ("steps", str(summary.steps)),
        ("seconds in the job", f"{summary.seconds:.1f}"),
        ("loss, first tenth → last tenth", f"{summary.first_loss:.4f} → {summary.last_loss:.4f}"),
        ("held-out loss, base → trained", f"{summary.held_out_before:.4f} → {summary.held_out_after:.4f}"),
    ]
    if journey.quote is not None:
        quote = journey.quote
        rows.append(("the same on AWS, quoted", f"${quote.dollars:.2f}, {quote.seconds} s on {quote.instance_type}"))
    if journey.receipt is not None:
        rows.append(("billed", describe_receipt(journey.receipt)))
    return _table(("", ""), rows) + draw_losses(journey.losses)


def draw_losses(losses: list[tuple[int, float]]) -> str:
    """An SVG line of (step, loss); nothing when there are fewer than two points."""
    if len(losses) < 2:
        return ""
    steps, values = zip(*losses, strict=True)
    low, high = min(values), max(values)
    width, height = (max(steps) - min(steps)) or 1, (high - low) or 1.0
    points = " ".join(
        f"{(step - min(steps)) / width * CHART_WIDTH:.1f},{(high - value) / height * CHART_HEIGHT:.1f}"
        for step, value in losses
    )
    return (
        f'<svg viewBox="-2 -2 {CHART_WIDTH + 4} {CHART_HEIGHT + 4}" width="{CHART_WIDTH}" role="img" '
        f'aria-label="Training loss from {high:.3f} to {low:.3f}"><polyline points="{points}"/></svg>'
        f"<p>Training loss, steps {min(steps)} to {max(steps)}; highest {high:.3f}, lowest {low:.3f}.</p>"
    )


def _dataset(report: DatasetReport) -> str:
    rows = [
        (finding.path, finding.format or "", f"{finding.width} × {finding.height}", finding.problem or "fine")
        for finding in report.images
    ]
    ignored = f"<p>Left out, no part of a dataset: {_text(', '.join(report.ignored))}</p>" if report.ignored else ""
    return _table(("file", "format", "pixels", "verdict"), rows) + ignored
