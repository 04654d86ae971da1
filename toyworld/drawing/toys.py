"""The twelve kinds of toy. Each faces one way always, so that a picture and its mirror image are not the same thing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from toyworld.drawing.canvas import Canvas, Coat, Figure, darker, lighter
from toyworld.vocabulary import RGB, Kind

WHITE = (255, 255, 255)
FULL = 255  # on a mask
INK = (24, 24, 28)
GLASS = (186, 226, 250)
STEEL = (168, 172, 182)
BARK = (112, 70, 38)
LEAF = (46, 140, 56)
BEAK = (246, 140, 40)
BLUSH = (248, 160, 176)


@dataclass(frozen=True)
class Anchors:
    """Where things are put on: x, y and the width to fill, in units."""

    top: tuple[float, float, float]  # the middle of a hat's brim
    neck: tuple[float, float, float]
    face: tuple[float, float, float]  # between the eyes
    chest: tuple[float, float, float]
    has_face: bool = False


def eye(figure: Canvas, x: float, y: float, radius: float) -> None:
    figure.ellipse((x - radius, y - radius, x + radius, y + radius), WHITE)
    pupil = radius * 0.55
    figure.ellipse((x - pupil, y - pupil, x + pupil, y + pupil), INK)


def ball(figure: Figure, coat: Coat) -> Anchors:
    figure.body(coat, lambda mask: mask.ellipse((38, 36, 218, 216), FULL))
    figure.ellipse((78, 58, 112, 84), lighter(coat.main, 0.7))
    return Anchors(top=(128, 46, 92), neck=(128, 178, 150), face=(128, 116, 84), chest=(128, 178, 44))


def block(figure: Figure, coat: Coat) -> Anchors:
    figure.body(coat, lambda mask: mask.rectangle((40, 78, 182, 216), FULL))
    figure.polygon([(182, 78), (222, 42), (222, 180), (182, 216)], darker(coat.main, 0.4))
    figure.polygon([(40, 78), (80, 42), (222, 42), (182, 78)], lighter(coat.main, 0.4))
    return Anchors(top=(131, 60, 84), neck=(111, 176, 142), face=(111, 124, 74), chest=(111, 180, 44))


def star(figure: Figure, coat: Coat) -> Anchors:
    points = []
    for corner in range(10):
        radius = 112 if corner % 2 == 0 else 52
        angle = -math.pi / 2 + corner * math.pi / 5
        points.append((128 + radius * math.cos(angle), 128 + radius * math.sin(angle)))
    figure.body(coat, lambda mask: mask.polygon(points, FULL))
    return Anchors(top=(128, 68, 58), neck=(128, 156, 96), face=(128, 114, 66), chest=(128, 156, 40))


def house(figure: Figure, coat: Coat) -> Anchors:
    figure.body(coat, lambda mask: mask.rectangle((56, 112, 200, 216), FULL))
    figure.polygon([(32, 116), (128, 32), (224, 116)], darker(coat.main, 0.45))
    figure.rectangle((110, 160, 146, 216), BARK)
    for x in (70, 156):
        figure.rectangle((x, 130, x + 30, 160), GLASS)
    return Anchors(top=(128, 66, 64), neck=(128, 122, 150), face=(128, 140, 80), chest=(128, 86, 40))


def mug(figure: Figure, coat: Coat) -> Anchors:
    figure.ring((160, 92, 236, 180), darker(coat.main, 0.35), 18)

    def pot(mask: Canvas) -> None:
        mask.rectangle((46, 66, 186, 200), FULL)
        mask.ellipse((46, 182, 186, 218), FULL)

    figure.body(coat, pot)
    figure.ellipse((46, 48, 186, 84), lighter(coat.main, 0.45))
    figure.ellipse((58, 54, 174, 80), (74, 44, 26))
    return Anchors(top=(116, 60, 84), neck=(116, 168, 140), face=(116, 122, 76), chest=(116, 174, 44))


def fish(figure: Figure, coat: Coat) -> Anchors:
    fin = darker(coat.main, 0.35)
    figure.polygon([(176, 130), (242, 74), (242, 188)], fin)
    figure.polygon([(88, 90), (146, 38), (164, 92)], fin)
    figure.body(coat, lambda mask: mask.ellipse((16, 70, 202, 190), FULL), slant=0.2)
    eye(figure, 64, 118, 17)
    figure.arc((22, 126, 66, 164), 10, 90, INK, 6)
    return Anchors(top=(80, 82, 64), neck=(110, 176, 90), face=(64, 118, 44), chest=(124, 138, 44), has_face=True)


def cat(figure: Figure, coat: Coat) -> Anchors:
    def head(mask: Canvas) -> None:
        mask.polygon([(46, 116), (54, 22), (124, 70)], FULL)
        mask.polygon([(210, 116), (202, 22), (132, 70)], FULL)
        mask.ellipse((38, 54, 218, 216), FULL)

    figure.body(coat, head)
    figure.polygon([(64, 80), (66, 46), (94, 66)], BLUSH)
    figure.polygon([(192, 80), (190, 46), (162, 66)], BLUSH)
    for x in (92, 164):
        figure.ellipse((x - 19, 104, x + 19, 144), (196, 226, 96))
        figure.ellipse((x - 7, 106, x + 7, 142), INK)
    figure.polygon([(114, 156), (142, 156), (128, 172)], (240, 96, 124))
    for side in (-1, 1):
        for y, end in ((166, 156), (176, 186)):
            figure.line([(128 + side * 28, y), (128 + side * 92, end)], STEEL, 4)
    return Anchors(top=(128, 58, 72), neck=(128, 198, 110), face=(128, 124, 72), chest=(128, 192, 36), has_face=True)


def duck(figure: Figure, coat: Coat) -> Anchors:
    figure.polygon([(14, 84), (60, 68), (60, 102)], BEAK)

    def bird(mask: Canvas) -> None:
        mask.ellipse((44, 108, 216, 216), FULL)
        mask.ellipse((40, 30, 142, 134), FULL)
        mask.polygon([(180, 140), (242, 88), (216, 184)], FULL)

    figure.body(coat, bird)
    figure.chord((104, 116, 196, 196), 0, 180, darker(coat.main, 0.3))
    eye(figure, 76, 72, 14)
    return Anchors(top=(94, 40, 68), neck=(92, 126, 86), face=(76, 72, 40), chest=(84, 168, 40), has_face=True)


def robot(figure: Figure, coat: Coat) -> Anchors:
    dark = darker(coat.main, 0.4)
    figure.line([(128, 22), (128, 50)], STEEL, 8)
    figure.ellipse((115, 8, 141, 34), STEEL)
    for box in ((24, 124, 62, 146), (194, 124, 232, 146), (80, 188, 112, 216), (144, 188, 176, 216)):
        figure.rectangle(box, dark)

    def chassis(mask: Canvas) -> None:
        mask.rounded((66, 42, 190, 110), 14, FULL)
        mask.rounded((56, 116, 200, 198), 12, FULL)

    figure.body(coat, chassis)
    for x in (100, 156):
        eye(figure, x, 72, 17)
    figure.rectangle((102, 95, 154, 102), INK)
    figure.rounded((94, 134, 162, 178), 6, STEEL)
    return Anchors(top=(128, 44, 76), neck=(128, 114, 110), face=(128, 72, 56), chest=(128, 156, 40), has_face=True)


def car(figure: Figure, coat: Coat) -> Anchors:
    def chassis(mask: Canvas) -> None:
        mask.rounded((12, 114, 244, 188), 24, FULL)
        mask.polygon([(54, 122), (86, 60), (172, 60), (208, 122)], FULL)

    figure.body(coat, chassis)
    figure.polygon([(76, 114), (98, 74), (124, 74), (124, 114)], GLASS)
    figure.polygon([(134, 114), (134, 74), (164, 74), (188, 114)], GLASS)
    for x in (68, 188):
        figure.ellipse((x - 33, 150, x + 33, 216), INK)
        figure.ellipse((x - 14, 169, x + 14, 197), STEEL)
    figure.ellipse((222, 132, 244, 154), (255, 240, 150))
    return Anchors(top=(128, 68, 70), neck=(128, 120, 150), face=(128, 138, 64), chest=(128, 144, 40))


def tree(figure: Figure, coat: Coat) -> Anchors:
    figure.rectangle((110, 150, 146, 216), BARK)

    def crown(mask: Canvas) -> None:
        for x, y, radius in ((128, 78, 60), (76, 116, 48), (180, 116, 48), (128, 122, 54)):
            mask.ellipse((x - radius, y - radius, x + radius, y + radius), FULL)

    figure.body(coat, crown)
    return Anchors(top=(128, 58, 84), neck=(128, 160, 90), face=(128, 96, 80), chest=(128, 146, 44))


def flower(figure: Figure, coat: Coat) -> Anchors:
    figure.line([(128, 130), (128, 216)], LEAF, 13)
    figure.ellipse((130, 170, 188, 198), LEAF)
    figure.ellipse((68, 180, 126, 208), LEAF)

    def petals(mask: Canvas) -> None:
        for petal in range(6):
            angle = petal * math.pi / 3
            x, y = 128 + 52 * math.cos(angle), 92 + 52 * math.sin(angle)
            mask.ellipse((x - 34, y - 34, x + 34, y + 34), FULL)

    figure.body(coat, petals)
    figure.ellipse((94, 58, 162, 126), (252, 206, 60))
    return Anchors(top=(128, 52, 68), neck=(128, 158, 76), face=(128, 86, 50), chest=(128, 160, 44))


DRAW: dict[Kind, Callable[[Figure, Coat], Anchors]] = {
    "ball": ball, "block": block, "star": star, "house": house, "mug": mug, "fish": fish,
    "cat": cat, "duck": duck, "robot": robot, "car": car, "tree": tree, "flower": flower,
}  # fmt: skip


def smile(figure: Figure, anchors: Anchors, lips: RGB) -> None:
    """Two eyes and a mouth, for the kinds that have none of their own."""
    x, y, width = anchors.face
    for side in (-1, 1):
        eye(figure, x + side * width * 0.3, y, width * 0.21)
    figure.chord((x - width * 0.36, y + width * 0.06, x + width * 0.36, y + width * 0.66), 10, 170, lips)
