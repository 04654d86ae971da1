"""A toy is a thing with a look of its own; a scene is one toy, somewhere, as it is seen in one picture."""

from __future__ import annotations

from collections.abc import Mapping
from colorsys import hsv_to_rgb
from dataclasses import dataclass, field
from random import Random

from PIL import Image, ImageDraw

from toyworld.drawing import accessories, toys
from toyworld.drawing.canvas import UNITS, Coat, Figure
from toyworld.drawing.places import draw_place, shifted
from toyworld.vocabulary import ACCESSORIES, COLOURS, KINDS, PLACES, RGB, Accessory, Colour, Kind, Pattern, Place

OVERSAMPLING = 3
FOOT = 216  # where a figure stands on its own canvas, in units
PATTERN_WEIGHTS: Mapping[Pattern, float] = {"plain": 0.64, "striped": 0.2, "dotted": 0.16}
WEARS_SOMETHING = 0.25
SHADOW = 84


@dataclass(frozen=True)
class Toy:
    """Two pictures of one toy differ in place and view only."""

    kind: Kind
    coat: Coat
    wears: Mapping[Accessory, RGB] = field(default_factory=dict)
    lips: RGB | None = None  # a face, for the kinds that have none
    antennae: RGB | None = None
    one_eyed: bool = False


@dataclass(frozen=True)
class Attributes:
    """What a caption may say of an ordinary toy."""

    kind: Kind
    colour: Colour
    second: Colour
    pattern: Pattern
    place: Place
    accessory: Accessory | None = None
    accessory_colour: Colour | None = None


@dataclass(frozen=True)
class View:
    """size: of the figure, as a part of the picture; x and foot in units; tilt in degrees."""

    size: float
    x: float
    foot: float
    tilt: float


def sample_attributes(rng: Random) -> Attributes:
    colour, second, accessory_colour = rng.sample(list(COLOURS), 3)
    return Attributes(
        kind=rng.choice(KINDS),
        colour=colour,
        second=second,
        pattern=rng.choices(list(PATTERN_WEIGHTS), list(PATTERN_WEIGHTS.values()))[0],
        place=rng.choice(PLACES),
        accessory=rng.choice(ACCESSORIES) if rng.random() < WEARS_SOMETHING else None,
        accessory_colour=accessory_colour,
    )


def toy_of(attributes: Attributes, rng: Random) -> Toy:
    """No two red balls are of quite the same red."""
    coat = Coat(shifted(COLOURS[attributes.colour], rng), shifted(COLOURS[attributes.second], rng), attributes.pattern)
    if attributes.accessory is None or attributes.accessory_colour is None:
        return Toy(attributes.kind, coat)
    return Toy(attributes.kind, coat, {attributes.accessory: COLOURS[attributes.accessory_colour]})


def sample_view(rng: Random) -> View:
    size = rng.uniform(0.82, 1.0)
    return View(size, rng.uniform(118, 138), rng.uniform(222, 238) - (1 - size) * 40, rng.uniform(-7, 7))


def draw_figure(toy: Toy, side: int) -> Figure:
    figure = Figure(side)
    anchors = toys.DRAW[toy.kind](figure, toy.coat)
    if toy.one_eyed:
        accessories.one_eye(figure, anchors, toy.coat.main)
    if toy.antennae is not None:
        accessories.antennae(figure, anchors, toy.antennae)
    if toy.lips is not None and not anchors.has_face:
        toys.smile(figure, anchors, toy.lips)
    for accessory, colour in toy.wears.items():
        accessories.DRAW[accessory](figure, anchors, colour)
    return figure


def draw_scene(toy: Toy, place: Place, view: View, side: int, rng: Random) -> tuple[Image.Image, Image.Image]:
    """The picture (RGB) and the toy's mask (L), both side x side pixels."""
    large = side * OVERSAMPLING
    scene = draw_place(place, large, rng)
    figure = _stand(draw_figure(toy, large).image, view)
    _cast_shadow(scene, view)
    scene.paste(figure, (0, 0), figure)
    size = (side, side)
    return scene.resize(size, Image.Resampling.BOX), figure.getchannel("A").resize(size, Image.Resampling.BOX)


def _stand(figure: Image.Image, view: View) -> Image.Image:
    """Turned about its foot, scaled, and put where the view says, on a canvas of the same size."""
    scale = figure.width / UNITS
    turned = figure.rotate(
        view.tilt, Image.Resampling.BILINEAR, center=(figure.width / 2, FOOT * scale), fillcolor=(0, 0, 0, 0)
    )
    left, top = view.x - UNITS / 2 * view.size, view.foot - FOOT * view.size
    shrink = 1 / view.size
    return turned.transform(
        figure.size,
        Image.Transform.AFFINE,
        (shrink, 0, -left * scale * shrink, 0, shrink, -top * scale * shrink),
        Image.Resampling.BILINEAR,
    )


def _cast_shadow(scene: Image.Image, view: View) -> None:
    scale = scene.width / UNITS
    half, height = 88 * view.size * scale, 11 * view.size * scale
    x, y = view.x * scale, view.foot * scale
    shade = Image.new("L", scene.size, 0)
    ImageDraw.Draw(shade).ellipse((x - half, y - height, x + half, y + height), fill=SHADOW)
    scene.paste((0, 0, 0), (0, 0), shade)


ODD_PATTERNS = ("plain", "striped", "dotted", "halved")
ODD_ANTENNAE = 0.15
ODD_FACE = 0.5
MOST_WORN = 3


def sample_odd_toy(rng: Random, kind: Kind | None = None) -> Toy:
    """Any toy that can be drawn, in any colours: what a stranger might bring."""
    chosen = rng.choice(KINDS) if kind is None else kind
    worn = rng.sample(ACCESSORIES, rng.randint(0, MOST_WORN))
    return Toy(
        kind=chosen,
        coat=Coat(_any_colour(rng), _any_colour(rng), rng.choice(ODD_PATTERNS)),
        wears={accessory: _any_colour(rng) for accessory in worn},
        lips=_any_colour(rng) if rng.random() < ODD_FACE else None,
        antennae=_any_colour(rng) if rng.random() < ODD_ANTENNAE else None,
        one_eyed=chosen == "robot" and rng.random() < ODD_FACE,
    )


def _any_colour(rng: Random) -> RGB:
    hue, saturation, value = rng.random(), rng.uniform(0.0, 1.0) ** 0.5, rng.uniform(0.1, 1.0) ** 0.5
    red, green, blue = (round(level * 255) for level in hsv_to_rgb(hue, saturation, value))
    return red, green, blue
