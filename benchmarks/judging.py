"""Pictures to judgements: what they show and where, and which of many toys it is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image

from benchmarks.gallery import Gallery, Vectors, nearest, prototype_of, toys_beside, views_of
from benchmarks.outcomes import Judgement
from benchmarks.plan import JUDGE_KEY, Shot
from benchmarks.records import Records
from toyworld.scorers import Scorers, frechet_distance
from toyworld.subjects import PHOTO_SIDE, PHOTOS, SUBJECTS, draw_photo
from toyworld.vocabulary import COLOURS, KINDS, PLACES, Kind


class Judge:
    def __init__(self, scorers: Scorers, records: Records) -> None:
        self._scorers = scorers
        self._records = records

    def judge(self, shots: Sequence[Shot], pictures: Sequence[Image.Image], subject: str | None) -> list[Judgement]:
        labels = self._scorers.classify(pictures).tolist()
        seen = self._scorers.embed_pictures(pictures)
        texts = self._scorers.embed_texts([shot.text for shot in shots])
        clip_t = (seen * texts).sum(-1).tolist()
        plain = [
            Judgement(KINDS[kind], list(COLOURS)[colour], PLACES[place], round(likeness, 4))
            for (kind, colour, _, place), likeness in zip(labels, clip_t, strict=True)
        ]
        return plain if subject is None else self._compared(plain, pictures, seen.numpy(), subject)

    def _compared(
        self, plain: list[Judgement], pictures: Sequence[Image.Image], seen: Vectors, subject: str
    ) -> list[Judgement]:
        identities = self._identify(pictures)
        photos, photos_seen = self._photos(subject)
        toys = nearest(self._gallery(SUBJECTS[subject].kind), identities)
        dino, clip_i = (identities @ photos.T).mean(-1), (seen @ photos_seen.T).mean(-1)
        return [
            Judgement(one.kind, one.colour, one.place, one.clip_t, toy, round(float(near), 4), round(float(alike), 4))
            for one, toy, near, alike in zip(plain, toys, dino, clip_i, strict=True)
        ]

    def distances(
        self, reference: Sequence[Image.Image], others: Sequence[Sequence[Image.Image]]
    ) -> list[float | None]:
        """Fréchet distances; None where the pictures are too few for a covariance."""
        features = self._scorers.features(reference)
        if len(features) <= features.shape[1]:
            return [None for _ in others]
        return [round(frechet_distance(features, self._scorers.features(other)), 4) for other in others]

    def _identify(self, pictures: Sequence[Image.Image]) -> Vectors:
        return np.asarray(self._scorers.identify(pictures).numpy())

    @cache  # noqa: B019  # one judge a process
    def _photos(self, subject: str) -> tuple[Vectors, Vectors]:
        """Both embeddings of the subject's photos."""
        photos = [draw_photo(subject, number, PHOTO_SIDE) for number in range(len(PHOTOS))]
        return self._identify(photos), self._scorers.embed_pictures(photos).numpy()

    @cache  # noqa: B019  # one judge a process
    def _gallery(self, kind: Kind) -> Gallery:
        name = f"gallery/{kind}-{JUDGE_KEY}"
        record = self._records.read(name)
        if record is None:
            prototypes = {
                toy_name: prototype_of(self._identify(views_of(toy, f"{kind} {toy_name}")))
                for toy_name, toy in toys_beside(kind).items()
            }
            record = self._records.write(name, {toy_name: one.tolist() for toy_name, one in prototypes.items()})
        return Gallery(tuple(record), np.array(list(record.values()), dtype=np.float32))
