"""What there is in the world, and what it is called. Every name that a caption may use stands here."""

from __future__ import annotations

from typing import Literal, get_args

Kind = Literal["ball", "block", "star", "house", "mug", "fish", "cat", "duck", "robot", "car", "tree", "flower"]
Colour = Literal["red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black", "brown"]
Pattern = Literal["plain", "striped", "dotted"]
Place = Literal["beach", "grass", "night", "snow", "city", "room", "water", "table"]
Accessory = Literal["hat", "crown", "bow", "scarf", "glasses", "heart"]

RGB = tuple[int, int, int]

KINDS: tuple[Kind, ...] = get_args(Kind)
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
PLACES: tuple[Place, ...] = get_args(Place)
ACCESSORIES: tuple[Accessory, ...] = get_args(Accessory)

COLOURS: dict[Colour, RGB] = {
    "red": (214, 40, 40),
    "orange": (243, 134, 28),
    "yellow": (248, 214, 48),
    "green": (44, 164, 66),
    "blue": (44, 92, 220),
    "purple": (136, 60, 190),
    "pink": (246, 130, 182),
    "white": (246, 246, 246),
    "black": (34, 34, 38),
    "brown": (134, 82, 42),
}

PLACE_PHRASES: dict[Place, tuple[str, ...]] = {
    "beach": ("on the beach", "on a beach", "at the beach"),
    "grass": ("on the grass", "on grass", "in a meadow"),
    "night": ("at night", "in the night", "under the stars"),
    "snow": ("in the snow", "on snow", "in winter"),
    "city": ("in the city", "in a city", "on a street"),
    "room": ("in a room", "in the room", "at home"),
    "water": ("under water", "under the sea", "in the sea"),
    "table": ("on a table", "on the table", "at a picnic"),
}

ACCESSORY_PHRASES: dict[Accessory, str] = {
    "hat": "with a hat",
    "crown": "with a crown",
    "bow": "with a bow",
    "scarf": "with a scarf",
    "glasses": "with glasses",
    "heart": "with a heart",
}

# Words without a meaning of their own, for subjects that are learned later.
IDENTIFIERS = ("sks", "zwx", "ohwx", "xyz")
