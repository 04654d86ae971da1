"""The denoiser: Stable Diffusion's UNet, small, trained on the autoencoder's latents with the text encoder frozen."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor
from torch.nn.functional import avg_pool2d
from transformers import CLIPTextModel, CLIPTokenizer

from toyworld.pictures import SIDE, Album
from toyworld.pretraining.autoencoder import FACTOR, LATENT_CHANNELS
from toyworld.pretraining.fit import Recipe, device, fit, frozen, place
from toyworld.pretraining.language import WIDTH
from toyworld.pretraining.views import as_tensor
from toyworld.vocabulary import COLOURS, KINDS, PLACE_PHRASES, PLACES

RECIPE = Recipe(
    steps=18_000, batch=16, learning_rate=1e-3, weight_decay=0.01, seed=15, steps_between_checkpoints=1000, cooldown=0.6
)
WITHOUT_PROMPT = 0.1
TOY_WEIGHT = 3.0  # beside 1 for every pixel
SNR_WEIGHT = 2.0
EXAMINED = 128


def scheduler() -> DDIMScheduler:
    """Stable Diffusion 2.1's, with its v-prediction (Salimans and Ho 2022, arXiv 2202.00512)."""
    schedule: DDIMScheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return schedule


def build_unet() -> UNet2DConditionModel:
    unet: UNet2DConditionModel = UNet2DConditionModel(
        sample_size=SIDE // FACTOR,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(48, 96, 160),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    return unet


def kept_latents(folder: Path, vae: AutoencoderKL, album: Album) -> Tensor:
    """Encoded once for each state of the autoencoder."""
    state = hashlib.sha256(b"".join(value.cpu().numpy().tobytes() for value in vae.state_dict().values())).hexdigest()
    path = folder / f"latents-{state[:12]}-{len(album)}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(path, encode_album(vae, album).cpu().numpy())
    return torch.from_numpy(np.load(path, allow_pickle=False)).to(device())


@torch.no_grad()
def encode_album(vae: AutoencoderKL, album: Album) -> Tensor:
    """(N, C, h, w): the posterior's means, which have unit variance."""
    parts = range(0, len(album), 64)
    return torch.cat([vae.encode(as_tensor(album.pictures[i : i + 64], device())).latent_dist.mean for i in parts])


def loss_weights(masks: Tensor) -> Tensor:
    """(N, 1, side, side) parts of toy to (N, 1, h, w) weights, 1 on average."""
    weights = 1 + TOY_WEIGHT * avg_pool2d(masks, FACTOR)
    return weights / weights.mean()


def train_denoiser(
    folder: Path,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    album: Album,
    held_out: Album,
    recipe: Recipe = RECIPE,
) -> UNet2DConditionModel:
    torch.manual_seed(recipe.seed)
    unet = place(build_unet())
    schedule = scheduler()
    kept = schedule.alphas_cumprod.to(device())
    latents = kept_latents(folder, vae, album)
    weights = loss_weights(torch.from_numpy(album.masks.copy()).float()[:, None] / 255)
    ids = tokenizer(album.captions, padding="max_length", return_tensors="pt").input_ids
    empty = tokenizer("", padding="max_length", return_tensors="pt").input_ids
    place(frozen(text_encoder))

    def loss_at(generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(0, len(album), (recipe.batch,), generator=generator)
        tokens = ids[rows].clone()
        tokens[torch.rand(recipe.batch, generator=generator) < WITHOUT_PROMPT] = empty
        noise = torch.randn((recipe.batch, *latents.shape[1:]), generator=generator).to(device())
        timesteps: Any = torch.randint(0, len(kept), (recipe.batch,), generator=generator).to(device())
        clean = latents[rows].contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            text = text_encoder(tokens.to(device())).last_hidden_state
        predicted = unet(schedule.add_noise(clean, noise, timesteps), timesteps, text).sample
        squared = (predicted - schedule.get_velocity(clean, noise, timesteps)).pow(2) * weights[rows].to(device())
        snr = kept[timesteps] / (1 - kept[timesteps])
        each = squared.mean((1, 2, 3)) * (SNR_WEIGHT / (1 + snr)).clamp(max=1)
        return each.mean(), {}

    examine = Heed(unet, text_encoder, tokenizer, vae, held_out)
    fit(folder, {"unet": unet}, recipe, loss_at, examine)
    return unet


class Heed:
    """How far the words are obeyed: by how much the loss rises when one of them is another one."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        vae: AutoencoderKL,
        held_out: Album,
    ) -> None:
        self._unet = unet
        self._schedule = scheduler()
        generator = torch.Generator().manual_seed(0)
        self._latents = encode_album(vae, held_out)[:EXAMINED]
        self._noise = torch.randn(self._latents.shape, generator=generator).to(device())
        self._timesteps: Any = torch.linspace(300, 950, len(self._latents)).long().to(device())
        shifts = {"true": (0, 0, 0), "kind": (3, 0, 0), "colour": (0, 3, 0), "place": (0, 0, 3)}
        self._texts = {}
        with torch.no_grad():
            for name, shift in shifts.items():
                texts = [_described(row, shift) for row in held_out.labels[:EXAMINED].tolist()]
                tokens = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids.to(device())
                self._texts[name] = text_encoder(tokens).last_hidden_state

    def __call__(self) -> dict[str, float]:
        noisy = self._schedule.add_noise(self._latents, self._noise, self._timesteps)
        target = self._schedule.get_velocity(self._latents, self._noise, self._timesteps)
        losses = {
            name: (self._unet(noisy, self._timesteps, text).sample - target).pow(2).mean().item()
            for name, text in self._texts.items()
        }
        true = losses.pop("true")
        return {"held_out": true} | {f"{name}_gap": loss - true for name, loss in losses.items()}


def _described(labels: list[int], shift: tuple[int, int, int]) -> str:
    """The true words, each moved on by so many places in its list."""
    colours = list(COLOURS)
    kind = KINDS[(labels[0] + shift[0]) % len(KINDS)]
    colour = colours[(labels[1] + shift[1]) % len(colours)]
    place = PLACES[(labels[3] + shift[2]) % len(PLACES)]
    return f"a photo of a {colour} {kind} {PLACE_PHRASES[place][0]}"
