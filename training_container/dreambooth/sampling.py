"""Pictures from the model in memory: DPM-Solver++, 20 steps, classifier-free guidance.

Lu et al. 2022, arXiv 2211.01095. Each picture has a seed of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from contracts.generation import Scheduler
from diffusion.autoencoder import Autoencoder
from diffusion.samplers import make_sampler
from training_container.dreambooth.draws import generator_for
from training_container.dreambooth.latents import latent_shape
from training_container.dreambooth.precision import Precision

SAMPLER: Scheduler = "dpmsolver++"
SAMPLING_STEPS = 20
GUIDANCE_SCALE = 7.5


@dataclass(frozen=True)
class Drawn:
    picture: Image.Image
    finite: bool
    contrast: float  # standard deviation of the pixels, 0 to 1


@dataclass(frozen=True)
class Sampler:
    """Everything that stays the same from picture to picture. Sides in pixels."""

    predict: Callable[[Tensor, Tensor, Tensor], Tensor]
    vae: Autoencoder
    scheduler_config: Mapping[str, object]
    precision: Precision
    resolution: int
    seed: int
    steps: int = SAMPLING_STEPS
    guidance_scale: float = GUIDANCE_SCALE

    @torch.no_grad()
    def draw(self, prompt: Tensor, empty: Tensor, purpose: str, numbers: Sequence[int]) -> list[Drawn]:
        """One picture a number. prompt and empty: embeddings (1, tokens, width)."""
        sampler = make_sampler(SAMPLER, self.scheduler_config, self.steps, self.precision.device)
        count = len(numbers)
        shape = latent_shape(self.vae, self.resolution)
        noise = [torch.randn(shape, generator=generator_for(self.seed, purpose, number)) for number in numbers]
        latents = torch.cat(noise).to(self.precision.device) * sampler.start_scale
        embeddings = torch.cat([empty.expand(count, -1, -1), prompt.expand(count, -1, -1)])
        for place, timestep in enumerate(sampler.timesteps):
            doubled = sampler.seen(torch.cat([latents, latents]), place)
            without, with_prompt = self.predict(doubled, timestep.expand(2 * count), embeddings).chunk(2)
            guided = without + self.guidance_scale * (with_prompt - without)
            latents = sampler.step(guided, latents, place, partial(torch.randn_like, latents))
        return [self._decode(latent[None]) for latent in latents]

    def _decode(self, latent: Tensor) -> Drawn:
        scaled = latent / self.vae.config.scaling_factor
        with self.precision.autocast():
            decoded: Tensor = self.vae.decode(scaled).float()
        if not bool(decoded.isfinite().all()):  # half precision overflows in some VAEs
            decoded = self.vae.decode(scaled).float()
        finite = bool(decoded.isfinite().all())
        unit = (decoded[0].nan_to_num() / 2 + 0.5).clamp(0, 1)
        pixels = (unit * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        return Drawn(Image.fromarray(pixels, "RGB"), finite, float(unit.std()))
