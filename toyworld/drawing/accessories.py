"""Things that a toy may wear. They sit at the toy's anchors, so that each fits every kind."""

from __future__ import annotations

from collections.abc import Callable

from toyworld.drawing.canvas import Figure, darker, lighter
from toyworld.drawing.toys import INK, Anchors
from toyworld.vocabulary import RGB, Accessory


def hat(figure: Figure, anchors: Anchors, colour: RGB) -> None:
    x, y, width = anchors.top
    half, height = width / 2, max(44.0, width * 0.75)
    tip = max(14.0, y - height)
    figure.polygon([(x - half, y + 6), (x, tip), (x + half, y + 6)], colour)
    figure.ellipse((x - half, y - 3, x + half, y + 15), darker(colour, 0.3))
    figure.ellipse((x - 11, tip - 11, x + 11, tip + 11), (255, 255, 255))


def crown(figure: Figure, anchors: Anchors, colour: RGB) -> None:
    x, y, width = anchors.top
    half, top = width / 2, y - 40
    figure.polygon(
        [(x - half, y + 8), (x - half, top), (x - half / 2, y - 16), (x, top - 8), (x + half / 2, y - 16),
         (x + half, top), (x + half, y + 8)], colour,
    )  # fmt: skip
    figure.rectangle((x - half, y - 2, x + half, y + 10), darker(colour, 0.3))


def bow(figure: Figure, anchors: Anchors, colour: RGB) -> None:
    x, y, width = anchors.neck
    half = max(30.0, width * 0.3)
    for side in (-1, 1):
        figure.polygon([(x, y), (x + side * half, y - half * 0.62), (x + side * half, y + half * 0.62)], colour)
    figure.ellipse((x - 11, y - 11, x + 11, y + 11), darker(colour, 0.35))


def scarf(figure: Figure, anchors: Anchors, colour: RGB) -> None:
    x, y, width = anchors.neck
    half = width / 2
    figure.rounded((x + half * 0.3, y, x + half * 0.3 + 24, y + 46), 6, darker(colour, 0.25))
    figure.rounded((x - half, y - 12, x + half, y + 12), 12, colour)


def glasses(figure: Figure, anchors: Anchors, colour: RGB) -> None:
    x, y, width = anchors.face
    reach, radius = width * 0.34, width * 0.31
    for side in (-1, 1):
        centre = x + side * reach
        figure.ring((centre - radius, y - radius, centre + radius, y + radius), colour, 9)
    figure.line([(x - reach + radius, y), (x + reach - radius, y)], colour, 8)


def heart(figure: Figure, anchors: Anchors, colour: RGB) -> None:
    x, y, width = anchors.chest
    half = width / 2
    edge = darker(colour, 0.4) if sum(colour) > 200 else lighter(colour, 0.4)
    for grow, fill in ((5.0, edge), (0.0, colour)):
        size = half + grow
        for side in (-1, 1):
            centre = x + side * size * 0.48
            figure.ellipse((centre - size * 0.52, y - size * 0.8, centre + size * 0.52, y + size * 0.24), fill)
        figure.polygon([(x - size * 0.95, y), (x + size * 0.95, y), (x, y + size)], fill)


DRAW: dict[Accessory, Callable[[Figure, Anchors, RGB], None]] = {
    "hat": hat, "crown": crown, "bow": bow, "scarf": scarf, "glasses": glasses, "heart": heart,
}  # fmt: skip


def one_eye(figure: Figure, anchors: Anchors, face_plate: RGB) -> None:
    """A single large eye where a robot's two are."""
    x, y, width = anchors.face
    figure.rounded((x - width * 1.0, y - 24, x + width * 1.0, y + 34), 10, face_plate)
    figure.ellipse((x - 30, y - 26, x + 30, y + 34), (255, 255, 255))
    figure.ellipse((x - 15, y - 11, x + 15, y + 19), INK)


def antennae(figure: Figure, anchors: Anchors, colour: RGB) -> None:
    x, y, width = anchors.top
    for side in (-1, 1):
        end = x + side * width * 0.6
        figure.line([(x + side * width * 0.25, y), (end, y - 26)], INK, 7)
        figure.ellipse((end - 14, y - 40, end + 14, y - 12), colour)
