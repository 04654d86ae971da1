"""CLIP on the world's pictures and captions (Radford et al. 2021, arXiv 2103.00020): a scorer, and the text encoder.

Beside the contrastive loss, what follows a caption's end must tell the words that it held: the denoiser reads those
positions too, and learns colour and kind only when they say them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from toyworld.pictures import SIDE, Album
from toyworld.pretraining.fit import Recipe, device, fit, frozen, place
from toyworld.pretraining.views import as_tensor, disturbed, recoloured
from toyworld.tokenizer import MAX_TOKENS, known_words
from toyworld.vocabulary import COLOURS, KINDS, PATTERNS, PLACE_PHRASES, PLACES

WIDTH = 128
SHORT = 32  # tokens: long enough for every caption; one step in LONG_EVERY sees all positions
LONG_EVERY = 8
POSITIONS_READ = 6
ENCODED_AT_ONCE = 500
LABELS = [len(KINDS), len(COLOURS), len(PATTERNS), len(PLACES)]
RECIPE = Recipe(steps=2000, batch=64, learning_rate=1e-3, seed=12)
RECOLOURED = 32  # pictures a step that teach the shape alone
EYES_RECIPE = Recipe(steps=10_000, batch=64, learning_rate=1e-3, seed=16)


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=8,
    )
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH))


def words_said(captions: list[str]) -> Tensor:
    """(N, words): 1 where the caption holds the word."""
    words = known_words()
    return torch.tensor([[float(word in said) for word in words] for said in (set(text.split()) for text in captions)])


def train_clip(
    folder: Path, tokenizer: CLIPTokenizer, album: Album, held_out: Album, recipe: Recipe = RECIPE
) -> CLIPModel:
    torch.manual_seed(recipe.seed)
    clip = place(build_clip(tokenizer))
    reader = nn.Linear(WIDTH, len(known_words())).to(device())
    namer = nn.Linear(WIDTH, sum(LABELS)).to(device())
    ids = tokenizer(album.captions, padding="max_length", return_tensors="pt").input_ids
    said = words_said(album.captions)
    labels = torch.from_numpy(album.labels.copy())
    end = int(tokenizer.eos_token_id)

    def loss_at(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(0, len(album), (recipe.batch,), generator=generator)
        length = MAX_TOKENS if int(torch.randint(0, LONG_EVERY, (1,), generator=generator)) == 0 else SHORT
        tokens = ids[rows, :length].to(device())
        pictures = disturbed(as_tensor(album.pictures[rows.numpy()], device()), generator)
        with torch.autocast(device().type, torch.bfloat16):
            text = clip.text_model(input_ids=tokens)
            seen = clip.vision_model(pixel_values=pictures).pooler_output.float()
        contrast = contrastive_loss(
            unit(clip.text_projection(text.pooler_output.float())),
            unit(clip.visual_projection(seen)),
            clip.logit_scale,
        )
        reading = binary_cross_entropy_with_logits(
            *_readings(text.last_hidden_state.float(), tokens, said[rows], generator)
        )
        naming = naming_loss(namer(seen), labels[rows].to(device()))
        loss = contrast + 10 * reading + 0.5 * naming
        return loss, {"contrast": contrast.item(), "reading": reading.item(), "naming": naming.item()}

    def _readings(hidden: Tensor, tokens: Tensor, words: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """At a few positions from the caption's end on."""
        ends = tokens.eq(end).int().argmax(-1)
        room = tokens.shape[1] - ends
        places = torch.rand((len(tokens), POSITIONS_READ), generator=generator).to(device())
        places[:, 0] = 0
        positions = ends[:, None] + (places * room[:, None]).long()
        chosen = hidden[torch.arange(len(tokens), device=device())[:, None], positions]
        logits = reader(chosen)
        return logits, words.to(device())[:, None].expand_as(logits)

    def examine() -> dict[str, float]:
        return zero_shot_accuracy(clip, tokenizer, held_out)

    fit(folder, {"clip": clip, "reader": reader, "namer": namer}, recipe, loss_at, examine)
    return clip


def train_eyes(
    folder: Path,
    clip: CLIPModel,
    tokenizer: CLIPTokenizer,
    album: Album,
    held_out: Album,
    recipe: Recipe = EYES_RECIPE,
) -> None:
    """The picture half goes on alone, in place: it needs longer, and the denoiser waits for the text half."""
    torch.manual_seed(recipe.seed)
    namer = place(nn.Linear(WIDTH, sum(LABELS)))
    clip.requires_grad_(False)
    for half in (clip.vision_model, clip.visual_projection):
        half.requires_grad_(True)
    with torch.no_grad():
        parts = range(0, len(album), ENCODED_AT_ONCE)
        texts = torch.cat([embed_texts(clip, tokenizer, album.captions[i : i + ENCODED_AT_ONCE]) for i in parts])
        kinds = embed_texts(clip, tokenizer, [f"a photo of a {kind}" for kind in KINDS])
    labels = torch.from_numpy(album.labels.copy())

    def loss_at(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(0, len(album), (recipe.batch,), generator=generator)
        pictures = disturbed(as_tensor(album.pictures[rows.numpy()], device()), generator)
        with torch.autocast(device().type, torch.bfloat16):
            seen = clip.vision_model(pixel_values=pictures).pooler_output.float()
        contrast = contrastive_loss(texts[rows], unit(clip.visual_projection(seen)), clip.logit_scale)
        naming = naming_loss(namer(seen), labels[rows].to(device()))
        shape = shape_loss(rows[:RECOLOURED], pictures[:RECOLOURED], generator)
        parts = {"contrast": contrast.item(), "naming": naming.item(), "shape": shape.item()}
        return contrast + naming + shape, parts

    def shape_loss(rows: Tensor, pictures: Tensor, generator: torch.Generator) -> Tensor:
        """The kind is to be known in colours that it never had: some kinds and colours are held out together."""
        with torch.autocast(device().type, torch.bfloat16):
            seen = clip.vision_model(pixel_values=recoloured(pictures, generator)).pooler_output.float()
        alike = unit(clip.visual_projection(seen)) @ kinds.T * clip.logit_scale.exp().clamp(max=100)
        return cross_entropy(alike, labels[rows, 0].to(device()), ignore_index=-1)

    def examine() -> dict[str, float]:
        return zero_shot_accuracy(clip, tokenizer, held_out)

    fit(folder, {"clip": clip, "namer": namer}, recipe, loss_at, examine)


def contrastive_loss(texts: Tensor, pictures: Tensor, logit_scale: Tensor) -> Tensor:
    """texts and pictures: (N, D) unit vectors, row by row of the same scene."""
    alike = texts @ pictures.T * logit_scale.exp().clamp(max=100)
    right = torch.arange(len(alike), device=alike.device)
    return (cross_entropy(alike, right) + cross_entropy(alike.T, right)) / 2


def unit(vectors: Tensor) -> Tensor:
    length: Tensor = vectors.norm(dim=-1, keepdim=True)
    return vectors / length


def naming_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the four groups; a label of -1 is not known."""
    parts = torch.split(logits, LABELS, dim=-1)
    return sum(
        (cross_entropy(part, labels[:, group], ignore_index=-1) for group, part in enumerate(parts)),
        start=torch.zeros((), device=logits.device),
    )


@torch.no_grad()
def zero_shot_accuracy(clip: CLIPModel, tokenizer: CLIPTokenizer, album: Album, most: int = 1000) -> dict[str, float]:
    """Each picture against 'a photo of a <kind>', 'a photo of a <colour> toy' and 'a photo <phrase>'."""
    pictures = as_tensor(album.pictures[:most], device())
    seen = torch.cat([embed_pictures(clip, part) for part in torch.split(pictures, ENCODED_AT_ONCE)])
    questions = {
        "kind": [f"a photo of a {kind}" for kind in KINDS],
        "place": [f"a photo of a toy {PLACE_PHRASES[place][0]}" for place in PLACES],
    }
    accuracy = {}
    for group, name in ((0, "kind"), (3, "place")):
        answers = (seen @ embed_texts(clip, tokenizer, questions[name]).T).argmax(-1).cpu()
        accuracy[f"{name}_accuracy"] = (answers == torch.from_numpy(album.labels[:most, group])).float().mean().item()
    return accuracy


def embed_pictures(clip: CLIPModel, pictures: Tensor) -> Tensor:
    return unit(clip.visual_projection(clip.vision_model(pixel_values=pictures).pooler_output))


def embed_texts(clip: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    tokens = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids.to(device())
    return unit(clip.text_projection(clip.text_model(input_ids=tokens).pooler_output))


def text_encoder_of(clip: CLIPModel) -> CLIPTextModel:
    """The text half as a model of its own, with the same weights."""
    encoder = CLIPTextModel(clip.text_model.config)
    encoder.load_state_dict(clip.text_model.state_dict())
    return frozen(encoder)
