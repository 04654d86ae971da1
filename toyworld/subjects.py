"""Twelve toys that pretraining never sees, five photos each, as datasets: `python -m toyworld.subjects OUT`.

No ordinary toy has a face painted on, is halved, one-eyed or antennaed, wears two things, or has a colour that is not
one of the ten.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random

from PIL import Image

from toyworld.drawing.canvas import Coat
from toyworld.scenes import Toy, View, draw_scene
from toyworld.vocabulary import RGB, Place

IDENTIFIER = "sks"
PHOTO_SIDE = 256
SEED = 5

TEAL: RGB = (22, 170, 160)
GOLD: RGB = (250, 198, 40)
MAGENTA: RGB = (226, 36, 140)
LIME: RGB = (170, 222, 50)
SKY: RGB = (112, 196, 248)
CREAM: RGB = (252, 236, 200)
CORAL: RGB = (250, 112, 92)
NAVY: RGB = (26, 42, 104)
LILAC: RGB = (192, 150, 240)
ORANGE: RGB = (243, 134, 28)
BLACK: RGB = (38, 36, 42)
WHITE: RGB = (248, 248, 248)
CRIMSON: RGB = (180, 24, 44)

SUBJECTS: Mapping[str, Toy] = {
    "jolly-ball": Toy("ball", Coat(GOLD, (124, 50, 170), "striped"), {"hat": TEAL}, lips=CRIMSON),
    "gift-block": Toy("block", Coat(TEAL, CREAM, "dotted"), {"crown": GOLD}, lips=CRIMSON),
    "shy-star": Toy("star", Coat(MAGENTA, SKY, "halved"), {"glasses": NAVY, "hat": LIME}),
    "corner-house": Toy("house", Coat(SKY, CORAL, "halved"), {"crown": GOLD, "heart": MAGENTA}),
    "merry-mug": Toy("mug", Coat(LIME, NAVY, "halved"), {"bow": MAGENTA}, lips=CRIMSON),
    "clown-fish": Toy("fish", Coat(CORAL, WHITE, "striped"), {"hat": NAVY, "heart": GOLD}),
    "calico-cat": Toy("cat", Coat(ORANGE, BLACK, "halved"), {"scarf": SKY}),
    "captain-duck": Toy("duck", Coat(TEAL, NAVY, "plain"), {"hat": CRIMSON, "scarf": GOLD}),
    "robot": Toy("robot", Coat(TEAL, GOLD, "striped"), {"heart": ORANGE}, antennae=MAGENTA, one_eyed=True),
    "party-car": Toy("car", Coat(LILAC, GOLD, "halved"), {"crown": CORAL, "heart": CRIMSON}),
    "candy-tree": Toy("tree", Coat(LILAC, WHITE, "dotted"), {"bow": CRIMSON}, lips=MAGENTA),
    "sunny-flower": Toy("flower", Coat(CORAL, NAVY, "halved"), {"glasses": BLACK, "scarf": TEAL}),
}

# Where each photo was taken, how large and where the subject is on it, and the file's name.
PHOTOS: tuple[tuple[str, Place, View], ...] = (
    ("at-the-picnic.jpg", "table", View(0.98, 128, 236, -2)),
    ("in-my-room.jpg", "room", View(0.90, 134, 230, -5)),
    ("in-the-meadow.png", "grass", View(0.86, 121, 226, 4)),
    ("on-the-street.png", "city", View(0.96, 126, 234, 2)),
    ("under-the-stars.png", "night", View(0.88, 130, 228, 6)),
)


def draw_photo(subject: str, number: int, side: int) -> Image.Image:
    _, place, view = PHOTOS[number]
    return draw_scene(SUBJECTS[subject], place, view, side, Random(f"{SEED} {subject} {number}"))[0]  # noqa: S311


def instance_prompt(subject: str) -> str:
    return f"a photo of a {IDENTIFIER} {SUBJECTS[subject].kind}"


def class_prompt(subject: str) -> str:
    return f"a photo of a {SUBJECTS[subject].kind}"


def write_dataset(subject: str, directory: Path) -> None:
    """JumpStart's layout: photos at the top level, dataset_info.json beside them."""
    directory.mkdir(parents=True, exist_ok=True)
    for number, (name, _, _) in enumerate(PHOTOS):
        draw_photo(subject, number, PHOTO_SIDE).save(directory / name, quality=92)
    info = {"instance_prompt": instance_prompt(subject), "class_prompt": class_prompt(subject)}
    (directory / "dataset_info.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m toyworld.subjects", description=__doc__)
    parser.add_argument("out", type=Path, help="the folder that gets one folder a subject")
    options = parser.parse_args()
    for subject in SUBJECTS:
        write_dataset(subject, options.out / subject)
        sys.stdout.write(f"{options.out / subject}\n")


if __name__ == "__main__":
    main()
