"""What is drawn and trained: every prompt with its noise, every training run, and what each record is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any, Literal, get_args

from benchmarks.records import key_of
from contracts.generation import Sampling
from contracts.training import Method
from toyworld.pictures import is_held_out
from toyworld.scenes import Attributes
from toyworld.subjects import IDENTIFIER, PHOTOS, SUBJECTS, class_prompt, instance_prompt
from toyworld.vocabulary import COLOURS, KINDS, PLACE_PHRASES, PLACES, Colour, Kind, Place

METHODS: tuple[Method, ...] = get_args(Method)
Role = Literal["base", "subject", "class", "unrelated"]

BATCH = 25  # pictures in one call of the pipeline
SEED = 20  # of all choices here
NEW_PLACES: tuple[Place, ...] = ("beach", "snow", "water")  # on none of the subjects' photos
SEEN_PLACES: tuple[Place, ...] = ("grass", "city", "room")
PICTURES_A_PLACE = 2
CLASS_PICTURES = 6
UNRELATED_PICTURES = 6
SHOWN_OF_A_KIND = 4
CLASS_IMAGES = 24  # num_class_images where nobody says otherwise
SEEDS_A_RUN = 1000

ORDINARY_TOYS = 100  # of the same kind, among which a subject is to be found
VIEWS_OF_A_TOY = 6
JUDGE_KEY = key_of(ORDINARY_TOYS, VIEWS_OF_A_TOY, repr(SUBJECTS))

Hyperparameters = Mapping[str, Any]


@dataclass(frozen=True)
class Shot:
    """One picture to draw, and what must be seen on it; None: anything."""

    role: Role
    prompt: str
    kind: Kind
    seed: int
    colour: Colour | None = None
    place: Place | None = None

    @property
    def text(self) -> str:
        """The prompt for a judge who never heard of the subject."""
        return self.prompt.replace(f"{IDENTIFIER} ", "")


@dataclass(frozen=True)
class Run:
    """One training: a subject, how it is learned, and whether its class is to be preserved."""

    subject: str
    method: Method
    seed: int
    prior: bool
    hyperparameters: Hyperparameters

    @property
    def group(self) -> str:
        return f"{self.method}+prior" if self.prior else self.method

    @property
    def folder(self) -> str:
        toy = repr(SUBJECTS[self.subject])
        key = key_of(dict(self.hyperparameters), toy, repr(PHOTOS))
        return f"runs/{self.subject}-{self.group}-{self.seed}-{key}"


@dataclass(frozen=True)
class Plan:
    subjects: tuple[str, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    prompts: int
    pictures_a_prompt: int
    sampling: Sampling
    hyperparameters: Mapping[Method, Hyperparameters]  # those that are not the program's own defaults

    def runs(self) -> list[Run]:
        """Seed by seed, so that what is done at any time is of all subjects; the first seed also with the prior."""
        order = [
            (method, seed, prior)
            for seed in self.seeds
            for prior in ((False, True) if seed == self.seeds[0] else (False,))
            for method in self.methods
        ]
        return [
            Run(subject, method, seed, prior, self._hyperparameters(method, seed, prior=prior))
            for method, seed, prior in order
            for subject in self.subjects
        ]

    def _hyperparameters(self, method: Method, seed: int, *, prior: bool) -> Hyperparameters:
        chosen = {"num_class_images": CLASS_IMAGES, **self.hyperparameters.get(method, {})}
        if not prior:
            del chosen["num_class_images"]
        return chosen | {"method": method, "seed": seed, "with_prior_preservation": prior}

    def base_batches(self) -> list[list[Shot]]:
        shots = base_shots(self.prompts, self.pictures_a_prompt)
        return [shots[start : start + BATCH] for start in range(0, len(shots), BATCH)]


def drawn_name(folder: str, shots: list[Shot], sampling: Sampling) -> str:
    return f"{folder}/drawn-{_shots_key(shots, sampling)}"


def judged_name(folder: str, shots: list[Shot], sampling: Sampling) -> str:
    return f"{folder}/judged-{_shots_key(shots, sampling)}-{JUDGE_KEY}"


def _shots_key(shots: list[Shot], sampling: Sampling) -> str:
    return key_of([asdict(shot) for shot in shots], asdict(sampling))


def held_out_combinations() -> list[tuple[Kind, Colour, Place]]:
    """In no picture that the base model was trained on."""
    return [
        (kind, colour, place)
        for kind in KINDS
        for colour in COLOURS
        for place in PLACES
        if is_held_out(Attributes(kind=kind, colour=colour, second=colour, pattern="plain", place=place))
    ]


def base_shots(prompts: int, pictures_a_prompt: int) -> list[Shot]:
    """All prompts once, then all once more with other noise; fewer prompts are the first of the many."""
    rng = Random(SEED)  # noqa: S311
    combinations = held_out_combinations()
    asked = []
    for _ in range(prompts):
        kind, colour, place = rng.choice(combinations)
        asked.append((kind, colour, place, rng.choice(PLACE_PHRASES[place])))
    return [
        _described("base", kind, colour, place, phrase, seed=number * SEEDS_A_RUN + again)
        for again in range(pictures_a_prompt)
        for number, (kind, colour, place, phrase) in enumerate(asked)
    ]


def showcase_shots() -> list[Shot]:
    """A few of each kind, all held out, the first that a shuffle gives: nobody has picked the best."""
    rng = Random(SEED + 1)  # noqa: S311
    combinations = held_out_combinations()
    rng.shuffle(combinations)
    shots: list[Shot] = []
    for kind in KINDS:
        of_kind = [combination for combination in combinations if combination[0] == kind]
        for _, colour, place in of_kind[:SHOWN_OF_A_KIND]:
            shots.append(_described("base", kind, colour, place, PLACE_PHRASES[place][0], seed=len(shots)))
    return shots


def subject_shots(subject: str, seed: int) -> list[Shot]:
    """The subject in several places, its class, and things of other kinds; the seed changes the noise."""
    kind = SUBJECTS[subject].kind
    rng = Random(f"{SEED} {subject}")  # noqa: S311
    shots = [
        Shot("subject", f"{instance_prompt(subject)} {PLACE_PHRASES[place][number]}", kind, seed, place=place)
        for place in (*NEW_PLACES, *SEEN_PLACES)
        for number in range(PICTURES_A_PLACE)
    ]
    shots += [Shot("class", class_prompt(subject), kind, seed)] * CLASS_PICTURES
    for other in rng.sample([other for other in KINDS if other != kind], UNRELATED_PICTURES):
        colour, place = rng.choice(list(COLOURS)), rng.choice(PLACES)
        shots.append(_described("unrelated", other, colour, place, rng.choice(PLACE_PHRASES[place]), seed=seed))
    return [replace(shot, seed=seed * SEEDS_A_RUN + number) for number, shot in enumerate(shots)]


def _described(role: Role, kind: Kind, colour: Colour, place: Place, phrase: str, seed: int) -> Shot:
    article = "an" if colour[0] in "aeiou" else "a"
    return Shot(role, f"a photo of {article} {colour} {kind} {phrase}", kind, seed, colour, place)
