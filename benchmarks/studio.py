"""The base model in memory, once: it draws in batches, with or without what a training has added."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.plan import Shot
from contracts.generation import Sampling
from contracts.training import Method
from inference_container.adapters import Wardrobe, Worn
from inference_container.denoising import Conditions, decode, denoise, new_picture
from inference_container.networks import Networks, load_base_model, pick_device, read_trained
from inference_container.pictures import to_pixels
from inference_container.prompts import embed


class Studio:
    def __init__(self, directory: Path) -> None:
        started = time.monotonic()
        base = load_base_model(directory, pick_device())
        self.load_seconds = time.monotonic() - started
        self._networks = base.networks
        self._resolution = base.manifest.resolution
        self._wardrobe = Wardrobe(base.networks.unet, base.networks.text_encoder)

    @contextmanager
    def untrained(self) -> Iterator[Networks]:
        yield self._networks

    @contextmanager
    def trained(self, method: Method, weights: Path) -> Iterator[Networks]:
        """The networks as that training left them; the base model is itself again afterwards."""
        if method == "full":
            yield read_trained(weights, self._networks)
            return
        self._wardrobe.wear([Worn(str(weights), self._wardrobe.read(weights, None), 1.0)])
        try:
            yield self._networks
        finally:
            self._wardrobe.wear([])

    @torch.inference_mode()
    def draw(self, networks: Networks, shots: Sequence[Shot], sampling: Sampling) -> list[Image.Image]:
        """All in one batch, each with noise of its own."""
        generators = [torch.Generator("cpu").manual_seed(shot.seed) for shot in shots]
        noise = [new_picture(networks, self._resolution, self._resolution, generator) for generator in generators]
        prompts = torch.cat([embed(networks, shot.prompt) for shot in shots])
        negatives = embed(networks, "").expand_as(prompts) if sampling.guidance_scale > 1 else None
        conditions = Conditions(prompts, negatives, torch.tensor(sampling.guidance_scale, device=networks.device))
        latents = denoise(networks, sampling, conditions, torch.cat(noise), generators)
        pictures = [to_pixels(decode(networks, latent)) for latent in torch.split(latents, 1)]
        return [Image.fromarray(np.asarray(picture)) for picture in pictures]
