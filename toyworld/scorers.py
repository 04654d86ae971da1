"""Judges of pictures: small counterparts of CLIP, DINO and Inception, read from the base model's scorers/ folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.linalg import sqrtm
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer, ResNetForImageClassification

from toyworld.pictures import SIDE
from toyworld.pretraining.fit import frozen
from toyworld.pretraining.language import LABELS, embed_pictures, embed_texts, unit
from toyworld.pretraining.views import as_tensor

CLIP, CLASSIFIER, INSTANCE = "clip", "classifier", "instance"
BATCH = 250

Pictures = Sequence[Image.Image]


@dataclass(frozen=True)
class Scorers:
    clip: CLIPModel
    tokenizer: CLIPTokenizer
    classifier: ResNetForImageClassification
    instance: ResNetForImageClassification

    @classmethod
    def load(cls, directory: Path) -> Scorers:
        """directory: scorers/ of the base model. Raises OSError when a part is missing."""
        return cls(
            clip=frozen(CLIPModel.from_pretrained(directory / CLIP, dtype=torch.float32)),
            tokenizer=CLIPTokenizer.from_pretrained(directory / CLIP),
            classifier=_resnet(directory / CLASSIFIER),
            instance=_resnet(directory / INSTANCE),
        )

    @torch.no_grad()
    def classify(self, pictures: Pictures) -> NDArray[np.int64]:
        """(N, 4): kind, colour, pattern and place, as indices into the vocabulary."""
        logits = torch.cat([self.classifier(part).logits for part in _parts(pictures)])
        named = torch.stack([part.argmax(-1) for part in torch.split(logits, LABELS, dim=-1)], dim=-1)
        return np.asarray(named.numpy())

    @torch.no_grad()
    def features(self, pictures: Pictures) -> NDArray[np.float64]:
        """(N, D): what the classifier sees before it names, for the Fréchet distance."""
        seen = [self.classifier.resnet(part).pooler_output.flatten(1) for part in _parts(pictures)]
        return torch.cat(seen).double().numpy()

    @torch.no_grad()
    def identify(self, pictures: Pictures) -> Tensor:
        """(N, D) unit vectors: close for two pictures of one toy, wherever it is."""
        return torch.cat([unit(self.instance(part).logits) for part in _parts(pictures)])

    @torch.no_grad()
    def embed_pictures(self, pictures: Pictures) -> Tensor:
        """(N, D) unit vectors; their products with each other are CLIP-I, with texts CLIP-T."""
        return torch.cat([embed_pictures(self.clip, part) for part in _parts(pictures)])

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D) unit vectors."""
        return embed_texts(self.clip, self.tokenizer, list(texts))


def _resnet(directory: Path) -> ResNetForImageClassification:
    return frozen(ResNetForImageClassification.from_pretrained(directory, dtype=torch.float32))


def _parts(pictures: Pictures) -> list[Tensor]:
    size = (SIDE, SIDE)
    scaled = [
        np.asarray(one if one.size == size else one.resize(size, Image.Resampling.LANCZOS))
        for one in (picture.convert("RGB") for picture in pictures)
    ]
    return [
        as_tensor(np.stack(scaled[start : start + BATCH]), torch.device("cpu"))
        for start in range(0, len(scaled), BATCH)
    ]


def frechet_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Between two sets of features, each (N, D) with N > D (Heusel et al. 2017, arXiv 1706.08500)."""
    means = first.mean(0) - second.mean(0)
    one, other = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    both = sqrtm(one @ other)
    return float(means @ means + np.trace(one + other - 2 * np.real(both)))
