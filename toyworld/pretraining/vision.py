"""The two scorers that only look: a classifier (Inception's part) and an embedding of single toys (DINO's part).

Both are transformers' ordinary ResNet for image classification, so that nothing of ours is needed to load them. The
classifier's outputs are the logits of four groups; the other's outputs are the embedding itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import ResNetConfig, ResNetForImageClassification

from toyworld.pictures import VIEWS, Album
from toyworld.pretraining.fit import Recipe, device, fit, frozen, generator_at, place
from toyworld.pretraining.language import LABELS, naming_loss, unit
from toyworld.pretraining.views import as_tensor, disturbed
from toyworld.vocabulary import COLOURS, KINDS, PATTERNS, PLACES

EMBEDDING = 64
TEMPERATURE = 0.07
CLASSIFIER_RECIPE = Recipe(steps=6000, batch=64, learning_rate=2e-3, seed=13)
INSTANCE_RECIPE = Recipe(steps=3000, batch=96, learning_rate=2e-3, seed=14)
ODD_PART = 3  # one picture in so many shows an odd toy
UNKNOWN = -1
CALIBRATED_ON, CALIBRATED_AT_ONCE = 30, 128


def build_resnet(outputs: Sequence[str]) -> ResNetForImageClassification:
    model: ResNetForImageClassification = ResNetForImageClassification(
        ResNetConfig(
            embedding_size=24,
            hidden_sizes=[24, 48, 96, 160],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            id2label=dict(enumerate(outputs)),
        )
    )
    return model


def label_names() -> list[str]:
    groups = (("kind", KINDS), ("colour", tuple(COLOURS)), ("pattern", PATTERNS), ("place", PLACES))
    return [f"{group}:{name}" for group, names in groups for name in names]


def train_classifier(
    folder: Path, ordinary: Album, odd: Album, held_out: Album, recipe: Recipe = CLASSIFIER_RECIPE
) -> ResNetForImageClassification:
    """Odd toys teach kind and place only: their colours have no name."""
    torch.manual_seed(recipe.seed)
    model = place(build_resnet(label_names()))
    odd_labels = odd.labels.copy()
    odd_labels[:, 1:3] = UNKNOWN
    odd_count = recipe.batch // ODD_PART

    def loss_at(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(0, len(ordinary), (recipe.batch - odd_count,), generator=generator).numpy()
        odd_rows = torch.randint(0, len(odd), (odd_count,), generator=generator).numpy()
        pictures = np.concatenate([ordinary.pictures[rows], odd.pictures[odd_rows]])
        labels = torch.from_numpy(np.concatenate([ordinary.labels[rows], odd_labels[odd_rows]])).to(device())
        logits = model(disturbed(as_tensor(pictures, device()), generator)).logits
        return naming_loss(logits, labels), {}

    def examine() -> dict[str, float]:
        names = ("kind", "colour", "pattern", "place")
        right = classify(model, held_out) == torch.from_numpy(held_out.labels.copy())
        return {f"{name}_accuracy": value for name, value in zip(names, right.float().mean(0).tolist(), strict=True)}

    fit(folder, {"classifier": model}, recipe, loss_at, examine)
    calibrate(model, [ordinary, odd])
    return model


@torch.no_grad()
def classify(model: ResNetForImageClassification, album: Album) -> Tensor:
    """(N, 4): kind, colour, pattern, place as indices."""
    answers = []
    for start in range(0, len(album), 250):
        logits = model(as_tensor(album.pictures[start : start + 250], device())).logits
        answers.append(torch.stack([part.argmax(-1) for part in torch.split(logits, LABELS, dim=-1)], dim=-1))
    return torch.cat(answers).cpu()


def train_instance_embedding(
    folder: Path, odd: Album, held_out: Album, recipe: Recipe = INSTANCE_RECIPE
) -> ResNetForImageClassification:
    """Two views of a toy are alike, all other toys of its kind are not (van den Oord et al. 2018, arXiv 1807.03748)."""
    torch.manual_seed(recipe.seed)
    model = place(build_resnet([f"dimension:{number}" for number in range(EMBEDDING)]))
    kinds = odd.labels[::VIEWS, 0]
    toys_of = [torch.from_numpy(np.flatnonzero(kinds == kind)) for kind in range(len(KINDS))]

    def loss_at(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        count = recipe.batch // 2
        # half of the batch of one kind, the rest of any: telling kinds apart is learned on the way
        of_kind = toys_of[int(torch.randint(0, len(KINDS), (1,), generator=generator))]
        same = of_kind[torch.randperm(len(of_kind), generator=generator)[: count * 3 // 4]]
        others = torch.randint(0, len(kinds), (count - len(same),), generator=generator)
        toys = torch.cat([same, others])
        first = torch.randint(0, VIEWS, (count,), generator=generator)
        second = (first + torch.randint(1, VIEWS, (count,), generator=generator)) % VIEWS
        rows = torch.cat([toys * VIEWS + first, toys * VIEWS + second]).numpy()
        embedded = unit(model(disturbed(as_tensor(odd.pictures[rows], device()), generator)).logits)
        alike = embedded @ embedded.T / TEMPERATURE
        twice = torch.cat([toys, toys]).to(device())
        itself = torch.eye(2 * count, dtype=torch.bool, device=device())
        partner = torch.roll(torch.arange(2 * count, device=device()), count)
        doubles = (twice[:, None] == twice[None]) & ~itself
        doubles[torch.arange(2 * count), partner] = False
        return cross_entropy(alike.masked_fill(itself | doubles, -1e4), partner), {}

    def examine() -> dict[str, float]:
        return {"told_apart": told_apart(model, held_out)}

    fit(folder, {"instance": model}, recipe, loss_at, examine)
    calibrate(model, [odd])
    return model


@torch.no_grad()
def calibrate(model: nn.Module, albums: Sequence[Album]) -> None:
    """Batch norm's statistics for the averaged weights, which no step has run (Izmailov et al. 2018, 1803.05407)."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
    nn.Module.train(model)
    for number in range(CALIBRATED_ON):
        generator = generator_at(0, number)
        album = albums[number % len(albums)]
        rows = torch.randint(0, len(album), (CALIBRATED_AT_ONCE,), generator=generator).numpy()
        model(disturbed(as_tensor(album.pictures[rows], device()), generator))
    frozen(model)


@torch.no_grad()
def told_apart(model: ResNetForImageClassification, album: Album) -> float:
    """Part of all triples (two views of one toy, one of another of its kind) where the two views are closer."""
    pictures = as_tensor(album.pictures, device())
    embedded = torch.cat([unit(model(part).logits) for part in torch.split(pictures, 250)]).cpu()
    kinds = album.labels[:, 0]
    right, asked = 0, 0
    for kind in range(len(KINDS)):
        rows = np.flatnonzero(kinds == kind)
        vectors, toys = embedded[torch.from_numpy(rows)], torch.from_numpy(album.toys[rows].copy())
        alike = vectors @ vectors.T
        same = toys[:, None] == toys[None]
        for row in range(len(rows)):
            positives = alike[row][same[row] & (torch.arange(len(rows)) != row)]
            negatives = alike[row][~same[row]]
            right += int((positives[:, None] > negatives[None]).sum())
            asked += len(positives) * len(negatives)
    return right / asked
