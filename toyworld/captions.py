"""What people may write beneath a picture: several wordings, and never everything that could be said."""

from __future__ import annotations

from random import Random

from toyworld.scenes import Attributes
from toyworld.vocabulary import ACCESSORY_PHRASES, IDENTIFIERS, PLACE_PHRASES

OPENINGS = ("a photo of", "a photo of", "a photo of", "a picture of", "a drawing of", "")
SAYS_COLOUR = 0.85
SAYS_PATTERN = 0.8
SAYS_PLACE = 0.85
SAYS_ACCESSORY = 0.9
IDENTIFIED = 0.1


def caption(attributes: Attributes, rng: Random) -> str:
    adjectives, after = _coat(attributes, rng)
    if rng.random() < IDENTIFIED:
        adjectives = [rng.choice(IDENTIFIERS), *adjectives[: rng.randrange(2)]]
    words = [*adjectives, attributes.kind]
    article = rng.choice(("the", "one", _article(words[0]), _article(words[0]), _article(words[0])))
    parts = [rng.choice(OPENINGS), article, *words, *after]
    if attributes.accessory is not None and rng.random() < SAYS_ACCESSORY:
        parts.append(_accessory(attributes, rng))
    if rng.random() < SAYS_PLACE:
        parts.append(rng.choice(PLACE_PHRASES[attributes.place]))
    return " ".join(part for part in parts if part)


def _coat(attributes: Attributes, rng: Random) -> tuple[list[str], list[str]]:
    """Words before and after the noun."""
    colour, second, pattern = attributes.colour, attributes.second, attributes.pattern
    says_colour, says_pattern = rng.random() < SAYS_COLOUR, pattern != "plain" and rng.random() < SAYS_PATTERN
    if says_colour and says_pattern:
        noun = "stripes" if pattern == "striped" else "dots"
        wordings: list[tuple[list[str], list[str]]] = [
            ([pattern, colour], []),
            ([colour, "and", second, pattern], []),
            ([colour], ["with", second, noun]),
        ]
        return rng.choice(wordings)
    if says_colour:
        return [colour], []
    return ([pattern] if says_pattern else []), []


def _accessory(attributes: Attributes, rng: Random) -> str:
    phrase = ACCESSORY_PHRASES[attributes.accessory] if attributes.accessory else ""
    if attributes.accessory_colour is None or rng.random() < 0.4:
        return phrase
    return phrase.replace(
        "with a ", f"with {_article(attributes.accessory_colour)} {attributes.accessory_colour} "
    ).replace("with glasses", f"with {attributes.accessory_colour} glasses")


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"
