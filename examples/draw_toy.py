"""Draws the example dataset: five pictures of one toy robot, each somewhere else.

    python examples/draw_toy.py          rewrites examples/datasets/robot/

The pictures are drawn four times too large and scaled down, which smooths every edge. The generator's seed is fixed, so
the same pictures come out every time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

SIDE = 256
OVERSAMPLING = 4
CANVAS = SIDE * OVERSAMPLING
DATASET = Path(__file__).parent / "datasets" / "robot"

TEAL, DARK_TEAL, YELLOW, PINK, ORANGE, WHITE, BLACK = (
    "#1fb5a8", "#127a72", "#f7c531", "#ee3d8f", "#f58b1f", "#ffffff", "#15181c",
)  # fmt: skip

Background = Callable[[ImageDraw.ImageDraw, random.Random], None]


def draw_robot() -> Image.Image:
    """The toy alone on a transparent square: one eye, pink antennae, a striped belly, an orange button."""
    robot = Image.new("RGBA", (CANVAS, CANVAS), (0, 0, 0, 0))
    draw = ImageDraw.Draw(robot)
    for x, tip in ((420, 330), (604, 694)):
        draw.line((x, 260, tip, 130), fill=BLACK, width=16)
        draw.ellipse((tip - 42, 88, tip + 42, 172), fill=PINK)
    for x in (380, 540):
        draw.rounded_rectangle((x, 830, x + 104, 920), 24, fill=PINK)
    for x in (200, 730):
        draw.rounded_rectangle((x, 560, x + 94, 640), 36, fill=DARK_TEAL)
    draw.rounded_rectangle((322, 240, 702, 500), 64, fill=TEAL)
    draw.ellipse((412, 272, 612, 472), fill=WHITE)
    draw.ellipse((466, 326, 558, 418), fill=BLACK)
    draw.ellipse((480, 336, 510, 366), fill=WHITE)
    draw_belly(robot)
    draw.ellipse((442, 618, 582, 758), fill=ORANGE)
    draw.ellipse((476, 640, 520, 684), fill="#ffc27a")
    return robot


def draw_belly(robot: Image.Image) -> None:
    """Stripes, cut to the rounded shape of the body."""
    stripes = Image.new("RGBA", robot.size, TEAL)
    draw = ImageDraw.Draw(stripes)
    for y in range(510, 860, 112):
        draw.rectangle((0, y, CANVAS, y + 56), fill=YELLOW)
    shape = Image.new("L", robot.size, 0)
    ImageDraw.Draw(shape).rounded_rectangle((276, 510, 748, 850), 70, fill=255)
    robot.paste(stripes, (0, 0), shape)


def studio(draw: ImageDraw.ImageDraw, _rng: random.Random) -> None:
    draw.rectangle((0, 0, CANVAS, CANVAS), fill="#efe9e2")
    draw.rectangle((0, 740, CANVAS, CANVAS), fill="#dcd4ca")


def room(draw: ImageDraw.ImageDraw, _rng: random.Random) -> None:
    draw.rectangle((0, 0, CANVAS, CANVAS), fill="#f2c6ad")
    draw.rectangle((60, 80, 330, 390), fill=WHITE)
    for x, y in ((80, 100), (205, 100), (80, 245), (205, 245)):
        draw.rectangle((x, y, x + 105, y + 125), fill="#97cdf0")
    draw.rectangle((0, 690, CANVAS, CANVAS), fill="#9a6237")
    for x in range(-300, CANVAS + 300, 190):
        draw.line((512 + (x - 512) * 0.6, 690, x, CANVAS), fill="#7c4c28", width=8)


def meadow(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    draw.rectangle((0, 0, CANVAS, CANVAS), fill="#9fcdf3")
    draw.ellipse((650, 70, 850, 170), fill=WHITE)
    draw.ellipse((740, 40, 930, 170), fill=WHITE)
    draw.rectangle((0, 640, CANVAS, CANVAS), fill="#52aa3c")
    for _ in range(140):
        x, y = rng.randrange(CANVAS), rng.randrange(650, CANVAS)
        draw.line((x, y, x + rng.randrange(-14, 15), y - 46), fill="#2f7f25", width=8)


def tablecloth(draw: ImageDraw.ImageDraw, _rng: random.Random) -> None:
    draw.rectangle((0, 0, CANVAS, CANVAS), fill="#7d9189")
    for row, y in enumerate(range(560, CANVAS, 116)):
        for column, x in enumerate(range(0, CANVAS, 116)):
            draw.rectangle((x, y, x + 116, y + 116), fill="#d23a34" if (row + column) % 2 else "#f6f1ea")


def night(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    draw.rectangle((0, 0, CANVAS, CANVAS), fill="#1d2450")
    for _ in range(60):
        x, y, radius = rng.randrange(CANVAS), rng.randrange(640), rng.randrange(3, 9)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill="#f4efc4")
    draw.ellipse((790, 60, 950, 220), fill="#f6edb0")
    draw.rectangle((0, 720, CANVAS, CANVAS), fill="#4a4f63")


# file name, background, size of the toy, its tilt in degrees, and where its centre goes (parts of the side)
SCENES: tuple[tuple[str, Background, float, float, tuple[float, float]], ...] = (
    ("on-the-shelf.png", studio, 0.90, 0, (0.50, 0.51)),
    ("in-my-room.jpg", room, 0.80, -5, (0.54, 0.55)),
    ("in-the-meadow.png", meadow, 0.72, 4, (0.46, 0.57)),
    ("at-the-picnic.jpg", tablecloth, 0.88, -2, (0.51, 0.50)),
    ("under-the-stars.png", night, 0.76, 6, (0.47, 0.56)),
)


def draw_scene(background: Background, size: float, tilt: float, centre: tuple[float, float]) -> Image.Image:
    scene = Image.new("RGB", (CANVAS, CANVAS))
    background(ImageDraw.Draw(scene), random.Random(7))  # noqa: S311 - grass and stars, not secrets
    side = round(CANVAS * size)
    corner = (round(centre[0] * CANVAS - side / 2), round(centre[1] * CANVAS - side / 2))
    add_shadow(scene, corner, side)
    robot = draw_robot().resize((side, side), Image.Resampling.LANCZOS).rotate(tilt, Image.Resampling.BICUBIC)
    scene.paste(robot, corner, robot)
    return scene.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def add_shadow(scene: Image.Image, corner: tuple[int, int], side: int) -> None:
    x, y = corner
    darkness = Image.new("L", scene.size, 0)
    box = (x + side * 0.26, y + side * 0.85, x + side * 0.76, y + side * 0.94)
    ImageDraw.Draw(darkness).ellipse(box, fill=110)
    scene.paste("#000000", (0, 0), darkness.filter(ImageFilter.GaussianBlur(10)))


def main() -> None:
    DATASET.mkdir(parents=True, exist_ok=True)
    for name, background, size, tilt, centre in SCENES:
        draw_scene(background, size, tilt, centre).save(DATASET / name, quality=92)


if __name__ == "__main__":
    main()
