"""Which attention kernel the UNet uses. xformers is tried before it is trusted.

xformers 0.0.16 trained nothing and said nothing (https://github.com/huggingface/diffusers/issues/1954), and a wheel
built for another CUDA only warns when it is imported; so its gradients are compared with torch's own first.
"""

from __future__ import annotations

import importlib
from functools import partial

import torch
from torch import Tensor

from contracts.errors import InvalidRequest
from contracts.training import Attention
from diffusion.attention import Kernel, scaled_dot_product, use_kernel
from diffusion.unet import UNet
from training_container.dreambooth.precision import Precision

TRIAL_SHAPE = (2, 4, 64, 40)  # pictures, heads, positions, width of a head
TOLERANCE = 2e-2  # of half precision, relative to the largest value
CURE = "Leave attention at auto, or use an image in which xformers fits torch and the GPU."


def use_attention(unet: UNet, attention: Attention, precision: Precision) -> None:
    """auto and sdpa: torch's scaled_dot_product_attention, which the UNet uses by itself. Raises InvalidRequest."""
    if attention == "xformers":
        use_kernel(unet, _try_xformers(precision))


def _try_xformers(precision: Precision) -> Kernel:
    """Its kernel, once it has shown that it computes what torch's does."""
    try:
        kernel = partial(_heads_last, importlib.import_module("xformers.ops").memory_efficient_attention)
    except ImportError as error:
        raise InvalidRequest(f"attention: xformers cannot be imported ({error}).", CURE) from error
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(TRIAL_SHAPE, generator=generator).to(precision.device) for _ in range(3)]
    expected = _gradients(inputs, precision, scaled_dot_product)
    try:
        found = _gradients(inputs, precision, kernel)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise InvalidRequest(f"attention: xformers does not work here ({str(error)[:200]}).", CURE) from error
    if len(found) != len(expected) or not all(map(_alike, expected, found)):
        raise InvalidRequest("attention: xformers computes other gradients than torch does.", CURE)
    return kernel


def _alike(expected: Tensor, found: Tensor) -> bool:
    return bool((expected - found).abs().max() <= TOLERANCE * expected.abs().max())


def _heads_last(kernel: Kernel, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return kernel(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)).transpose(1, 2)


def _gradients(inputs: list[Tensor], precision: Precision, attend: Kernel) -> list[Tensor]:
    """The output and the gradients of the inputs; fewer if an input got none."""
    leaves = [tensor.to(precision.frozen_dtype).requires_grad_() for tensor in inputs]
    output = attend(*leaves)
    output.float().square().sum().backward()  # type: ignore[no-untyped-call]
    return [output.detach().float(), *(leaf.grad.float() for leaf in leaves if leaf.grad is not None)]
