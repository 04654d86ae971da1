"""A square of 256 x 256 units, whatever its pixels; it is drawn too large and scaled down, which smooths every edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from toyworld.vocabulary import RGB

UNITS = 256
LIGHT_FALLS_OFF = 0.30  # how much darker a body is at its foot
Point = tuple[float, float]
Box = tuple[float, float, float, float]


def mix(first: RGB, second: RGB, part: float) -> RGB:
    """part 0: the first colour, 1: the second."""
    red, green, blue = (round(a * (1 - part) + b * part) for a, b in zip(first, second, strict=True))
    return red, green, blue


def lighter(colour: RGB, part: float) -> RGB:
    return mix(colour, (255, 255, 255), part)


def darker(colour: RGB, part: float) -> RGB:
    return mix(colour, (0, 0, 0), part)


class Canvas:
    """Pillow's drawing calls in units. Fills are opaque: a grey level on masks, RGB elsewhere."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.scale = image.width / UNITS
        self._draw = ImageDraw.Draw(image)

    def ellipse(self, box: Box, fill: RGB | int) -> None:
        self._draw.ellipse(self._scaled(box), fill=fill)

    def ring(self, box: Box, colour: RGB, width: float) -> None:
        self._draw.ellipse(self._scaled(box), outline=colour, width=self._width(width))

    def rectangle(self, box: Box, fill: RGB | int) -> None:
        self._draw.rectangle(self._scaled(box), fill=fill)

    def rounded(self, box: Box, radius: float, fill: RGB | int) -> None:
        self._draw.rounded_rectangle(self._scaled(box), radius * self.scale, fill=fill)

    def polygon(self, points: Sequence[Point], fill: RGB | int) -> None:
        self._draw.polygon([(x * self.scale, y * self.scale) for x, y in points], fill=fill)

    def line(self, points: Sequence[Point], colour: RGB, width: float) -> None:
        scaled = [(x * self.scale, y * self.scale) for x, y in points]
        self._draw.line(scaled, fill=colour, width=self._width(width), joint="curve")

    def arc(self, box: Box, start: float, end: float, colour: RGB, width: float) -> None:
        """Degrees clockwise from three o'clock."""
        self._draw.arc(self._scaled(box), start, end, fill=colour, width=self._width(width))

    def chord(self, box: Box, start: float, end: float, fill: RGB) -> None:
        self._draw.chord(self._scaled(box), start, end, fill=fill)

    def gradient(self, top: float, bottom: float, above: RGB, below: RGB) -> None:
        """The full width, from one colour at `top` to another at `bottom`."""
        first, last = round(top * self.scale), round(bottom * self.scale)
        ramp = Image.linear_gradient("L").resize((self.image.width, max(1, last - first)))
        upper, lower = Image.new("RGB", ramp.size, above), Image.new("RGB", ramp.size, below)
        self.image.paste(Image.composite(lower, upper, ramp), (0, first))

    def _scaled(self, box: Box) -> Box:
        x0, y0, x1, y1 = box
        return x0 * self.scale, y0 * self.scale, x1 * self.scale, y1 * self.scale

    def _width(self, width: float) -> int:
        return max(1, round(width * self.scale))


@dataclass(frozen=True)
class Coat:
    """What a body is covered with. `halved`: the left half in the first colour, the right one in the second."""

    main: RGB
    second: RGB
    pattern: str = "plain"  # a Pattern, or "halved", which pretraining never sees

    def swatch(self, side: int, slant: float) -> Image.Image:
        canvas = Canvas(Image.new("RGB", (side, side), self.main))
        if self.pattern == "striped":
            _stripes(canvas, self.second, slant)
        elif self.pattern == "dotted":
            _dots(canvas, self.second)
        elif self.pattern == "halved":
            canvas.rectangle((UNITS / 2, 0, UNITS, UNITS), self.second)
        return canvas.image


def _stripes(canvas: Canvas, colour: RGB, slant: float) -> None:
    """Level stripes, or upright ones that lean by `slant` units a unit of height."""
    width = 19
    for start in range(-UNITS, 2 * UNITS, 2 * width):
        if slant:
            lean = UNITS * slant
            corners = [(start, 0), (start + width, 0), (start + width + lean, UNITS), (start + lean, UNITS)]
            canvas.polygon(corners, colour)
        else:
            canvas.rectangle((0, start, UNITS, start + width), colour)


def _dots(canvas: Canvas, colour: RGB) -> None:
    spacing, radius = 36, 10
    for row, y in enumerate(range(24, UNITS, spacing)):
        for x in range(20 + (row % 2) * spacing // 2, UNITS, spacing):
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), colour)


class Figure(Canvas):
    """A toy alone on a transparent square; it stands on the line at 216 units."""

    def __init__(self, side: int) -> None:
        super().__init__(Image.new("RGBA", (side, side), (0, 0, 0, 0)))

    def body(self, coat: Coat, shape: Callable[[Canvas], None], slant: float = 0.0) -> None:
        """Fills what `shape` draws in white with the coat, lit from above."""
        side = self.image.width
        mask = Canvas(Image.new("L", (side, side), 0))
        shape(mask)
        self.image.paste(coat.swatch(side, slant), (0, 0), mask.image)
        ramp = Image.linear_gradient("L").resize((side, side)).point(lambda level: round(level * LIGHT_FALLS_OFF))
        shadow = Image.new("RGB", (side, side), (0, 0, 0))
        shaded = Image.composite(shadow, self.image.convert("RGB"), ramp)
        shaded.putalpha(self.image.getchannel("A"))
        self.image.paste(shaded, (0, 0), mask.image)
