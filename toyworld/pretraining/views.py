"""Pictures as the scorers are shown them: sometimes softer, noisier or paler than drawn, as generated ones are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from toyworld.pictures import Bytes

MEAN = 0.5  # of every channel, for values in [0, 1]
DEVIATION = 0.5
SOFTENED = 0.4
MOST_NOISE = 0.12
MOST_SHIFT = 4  # pixels


def as_tensor(pictures: Bytes, device: torch.device) -> Tensor:
    """(N, side, side, 3) bytes to (N, 3, side, side) in [-1, 1]."""
    values = torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    return values.contiguous(memory_format=torch.channels_last)


def disturbed(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Softened, shifted, noisy, and of another contrast: each picture in its own way, never turned or mirrored."""
    count, device = len(pictures), pictures.device

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(device)

    small = interpolate(avg_pool2d(pictures, 2), scale_factor=2, mode="bilinear", align_corners=False)
    part = (draw(count, 1, 1, 1) < SOFTENED) * draw(count, 1, 1, 1)
    seen = pictures * (1 - part) + small * part
    right, down = (int(shift) for shift in torch.randint(-MOST_SHIFT, MOST_SHIFT + 1, (2,), generator=generator))
    seen = torch.roll(seen, (down, right), (2, 3))
    seen = seen * (0.9 + 0.2 * draw(count, 1, 1, 1)) + 0.1 * (draw(count, 1, 1, 1) - 0.5)
    noise = torch.randn(seen.shape, generator=generator).to(device)
    return (seen + MOST_NOISE * draw(count, 1, 1, 1) * noise).clamp(-1, 1)


def recoloured(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture's channels mixed in its own way, from grey to foreign colours: the shapes stay."""
    mix = torch.rand((len(pictures), 3, 3), generator=generator).to(pictures.device)
    mix = mix / mix.sum(-1, keepdim=True)
    return torch.einsum("noc,nchw->nohw", mix, pictures)
