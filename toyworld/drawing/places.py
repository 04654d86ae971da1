"""The eight places. Small things in them vary; what tells one place from another does not."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from PIL import Image

from toyworld.drawing.canvas import UNITS, Canvas
from toyworld.vocabulary import RGB, Place


def shifted(colour: RGB, rng: Random, reach: float = 10) -> RGB:
    red, green, blue = (max(0, min(255, round(level + rng.uniform(-reach, reach)))) for level in colour)
    return red, green, blue


def beach(canvas: Canvas, rng: Random) -> None:
    shore = rng.uniform(140, 160)
    canvas.gradient(0, shore, shifted((116, 194, 250), rng), (210, 238, 255))
    canvas.rectangle((0, shore - 44, UNITS, shore), (40, 130, 206))
    canvas.gradient(shore, UNITS, shifted((246, 224, 152), rng), shifted((226, 190, 112), rng))
    x, y, radius = rng.choice((rng.uniform(24, 60), rng.uniform(196, 232))), 36, 24
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), (255, 232, 110))


def grass(canvas: Canvas, rng: Random) -> None:
    horizon = rng.uniform(130, 160)
    canvas.gradient(0, horizon, shifted((132, 200, 252), rng), (218, 240, 255))
    canvas.gradient(horizon, UNITS, shifted((98, 192, 74), rng), shifted((52, 138, 46), rng))
    for _ in range(24):
        x, y = rng.uniform(0, UNITS), rng.uniform(horizon + 12, UNITS)
        canvas.line([(x, y), (x + rng.uniform(-5, 5), y - 16)], (40, 118, 40), 4)


def night(canvas: Canvas, rng: Random) -> None:
    horizon = rng.uniform(150, 170)
    canvas.gradient(0, horizon, shifted((10, 12, 46), rng, 5), (34, 38, 92))
    canvas.gradient(horizon, UNITS, (44, 56, 84), (22, 28, 46))
    for _ in range(18):
        x, y, radius = rng.uniform(0, UNITS), rng.uniform(0, horizon - 8), rng.choice((3, 4))
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), (250, 250, 216))
    x = rng.choice((rng.uniform(28, 56), rng.uniform(200, 228)))
    canvas.ellipse((x - 22, 14, x + 22, 58), (250, 244, 196))


def snow(canvas: Canvas, rng: Random) -> None:
    horizon = rng.uniform(130, 160)
    canvas.gradient(0, horizon, shifted((140, 164, 196), rng), (196, 212, 230))
    canvas.gradient(horizon, UNITS, (250, 252, 255), shifted((216, 228, 246), rng))
    for _ in range(26):
        x, y, radius = rng.uniform(0, UNITS), rng.uniform(0, horizon + 20), rng.uniform(3, 6)
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), (255, 255, 255))


def city(canvas: Canvas, rng: Random) -> None:
    street = rng.uniform(160, 174)
    canvas.gradient(0, street, shifted((176, 190, 206), rng), (222, 226, 230))
    x = -rng.uniform(0, 30)
    while x < UNITS:
        width, height = rng.uniform(38, 58), rng.uniform(70, street - 10)
        wall = shifted(rng.choice(((110, 116, 128), (136, 122, 116), (90, 100, 118))), rng)
        canvas.rectangle((x, street - height, x + width - 4, street), wall)
        y = street - height + 10
        while y < street - 16:
            for window in (x + 8, x + width / 2 + 2):
                canvas.rectangle((window, y, window + 10, y + 13), (250, 230, 150))
            y += 26
        x += width
    canvas.rectangle((0, street, UNITS, UNITS), shifted((92, 94, 100), rng))
    for dash in range(-10, UNITS, 60):
        canvas.rectangle((dash, 226, dash + 34, 234), (240, 240, 230))


def room(canvas: Canvas, rng: Random) -> None:
    floor = rng.uniform(156, 172)
    canvas.rectangle((0, 0, UNITS, floor), shifted((238, 206, 176), rng))
    canvas.gradient(floor, UNITS, shifted((172, 112, 64), rng), (132, 82, 44))
    for plank in range(0, UNITS + 1, 43):
        canvas.line([(plank, floor), (plank + (plank - UNITS / 2) * 0.8, UNITS)], (112, 68, 36), 3)
    canvas.rectangle((0, floor - 9, UNITS, floor), (250, 244, 234))
    x = rng.choice((8, 174))
    canvas.rectangle((x, 20, x + 74, 98), (255, 255, 255))
    canvas.rectangle((x + 8, 28, x + 66, 90), (150, 206, 248))
    canvas.line([(x + 37, 28), (x + 37, 90)], (255, 255, 255), 6)
    canvas.line([(x + 8, 59), (x + 66, 59)], (255, 255, 255), 6)


def water(canvas: Canvas, rng: Random) -> None:
    canvas.gradient(0, UNITS, shifted((44, 166, 214), rng), shifted((12, 66, 140), rng))
    canvas.rectangle((0, 228, UNITS, UNITS), (200, 180, 126))
    for x in (rng.uniform(6, 40), rng.uniform(216, 250)):
        canvas.line([(x, 240), (x - 9, 206), (x + 9, 178), (x, 146)], (26, 134, 84), 9)
    for _ in range(12):
        x, y, radius = rng.uniform(0, UNITS), rng.uniform(0, 210), rng.uniform(5, 9)
        canvas.ring((x - radius, y - radius, x + radius, y + radius), (196, 234, 252), 3)


def table(canvas: Canvas, rng: Random) -> None:
    edge, side = rng.uniform(142, 162), 36
    canvas.gradient(0, edge, shifted((112, 148, 136), rng), shifted((150, 180, 166), rng))
    canvas.rectangle((0, edge, UNITS, UNITS), (248, 242, 236))
    offset = rng.choice((0, side))
    for row in range(4):
        for column in range(-1, 9):
            if (row + column) % 2 == 0:
                x, y = column * side - offset / 2, edge + row * 28
                canvas.rectangle((x, y, x + side, y + 28), (208, 60, 58))


DRAW: dict[Place, Callable[[Canvas, Random], None]] = {
    "beach": beach, "grass": grass, "night": night, "snow": snow,
    "city": city, "room": room, "water": water, "table": table,
}  # fmt: skip


def draw_place(place: Place, side: int, rng: Random) -> Image.Image:
    canvas = Canvas(Image.new("RGB", (side, side)))
    DRAW[place](canvas, rng)
    return canvas.image
