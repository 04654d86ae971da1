"""What a forward pass leaves in the GPU's memory for its backward pass: traced without a GPU and without weights.

The UNet is built and run on torch's meta device, which computes shapes alone, in well under a second. Mixed precision
is played by the rules of CUDA's autocast (https://docs.pytorch.org/docs/stable/amp.html#cuda-op-specific-behavior),
attention by what its memory-efficient kernel keeps: inputs, output and one number a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from contracts.training import Hyperparameters
from diffusion.autoencoder import Autoencoder
from diffusion.configuration import TextEncoderConfig, UNetConfig
from diffusion.layers import recompute_activations
from diffusion.text_encoder import TextEncoder
from diffusion.unet import UNet
from training_container.base_model import BaseModel
from training_container.dreambooth.latents import latent_shape
from training_container.dreambooth.lora import LoraSettings, add_text_encoder_adapters, add_unet_adapters
from training_container.dreambooth.precision import Precision

Module = TypeVar("Module", bound=torch.nn.Module)

META = torch.device("meta")
FP32 = 4
MAPS_AT_ONCE = 4  # of a residual block: its input, normed, activated and convolved
_IN_HALF: set[Callable[..., Any]] = {functional.linear, functional.conv2d, torch.matmul, torch.bmm}
_IN_FULL: set[Callable[..., Any]] = {functional.group_norm, functional.layer_norm, functional.softmax, torch.softmax}


@dataclass(frozen=True)
class Footprint:
    """Of one or more networks. Parameters are counts, activations bytes a picture, encoding bytes."""

    parameters: int  # of the base model
    trained: int
    activations: int
    activations_checkpointed: int
    encoding: int = 0  # the autoencoder and its work, where it encodes at every step

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


class FootprintOf:
    """The footprint of what given hyperparameters train of a base model. Those that train the same are traced once."""

    def __init__(self, base: BaseModel, precision: Precision) -> None:
        self._base = base
        self._half = None if precision.mixed == "no" else precision.frozen_dtype
        self._known: dict[tuple[object, ...], Footprint] = {}

    def __call__(self, wanted: Hyperparameters) -> Footprint:
        lora = LoraSettings.of(wanted) if wanted.method == "lora" else None
        # To learn words the text encoder is there as well; a full fine-tune's optimizer takes more room than it, later.
        with_text = wanted.train_text_encoder or bool(lora and wanted.textual_inversion_steps)
        key = (lora, with_text, wanted.resolution, wanted.not_cache_latents)
        if key not in self._known:
            side = latent_shape(self._base.vae, wanted.resolution or 0)[-1]
            tokens = self._base.tokenizer.length
            found = trace_unet(self._base.unet.config, side, tokens, self._half, lora)
            if with_text:
                found += trace_text_encoder(self._base.text_encoder.config, tokens, self._half, lora)
            if wanted.not_cache_latents:
                found += Footprint(0, 0, 0, 0, encoding_bytes(self._base.vae, wanted.resolution or 0))
            self._known[key] = found
        return self._known[key]


def encoding_bytes(vae: Autoencoder, resolution: int) -> int:
    """The weights, in fp32, and the few feature maps of the first level that are there at once: the largest ones."""
    maps = MAPS_AT_ONCE * vae.config.block_out_channels[0] * resolution**2
    return FP32 * (sum(weight.numel() for weight in vae.parameters()) + maps)


def trace_unet(
    config: UNetConfig, latent_side: int, tokens: int, half: torch.dtype | None, lora: LoraSettings | None
) -> Footprint:
    """half: the number format of mixed precision, None for fp32. lora: None where every weight is trained."""

    def build(checkpointed: bool) -> UNet:
        unet = UNet(config)
        if lora:
            _freeze(unet, half)
            add_unet_adapters(unet, lora)
        if checkpointed:
            recompute_activations(unet)
        return unet

    def run(unet: UNet, pictures: int) -> None:
        settings = unet.config
        latents = torch.zeros(pictures, settings.in_channels, latent_side, latent_side)
        text = torch.zeros(pictures, tokens, settings.cross_attention_dim)
        unet(latents, torch.zeros(pictures, dtype=torch.long), text)

    return _trace(build, run, half, lora)


def trace_text_encoder(
    config: TextEncoderConfig, tokens: int, half: torch.dtype | None, lora: LoraSettings | None
) -> Footprint:
    def build(checkpointed: bool) -> TextEncoder:
        encoder = TextEncoder(config)
        if lora:
            _freeze(encoder, half)
            add_text_encoder_adapters(encoder, lora)
        if checkpointed:
            recompute_activations(encoder)
        return encoder

    def run(encoder: TextEncoder, pictures: int) -> None:
        encoder(torch.zeros(pictures, tokens, dtype=torch.long))

    return _trace(build, run, half, lora)


def _freeze(module: torch.nn.Module, half: torch.dtype | None) -> None:
    module.requires_grad_(False)
    for weight in module.parameters():
        weight.data = weight.data.to(half or torch.float32)


def _trace(
    build: Callable[[bool], Module],
    run: Callable[[Module, int], None],
    half: torch.dtype | None,
    lora: LoraSettings | None,
) -> Footprint:
    def kept(module: Module, pictures: int) -> int:
        ledger = _Ledger(module)
        with META, torch.autograd.graph.saved_tensors_hooks(ledger.note, _unchanged), _Autocast(half):
            run(module, pictures)
        return ledger.bytes

    def a_picture(module: Module) -> int:
        """Two pictures less one: what does not grow with the batch drops out."""
        module.train()
        return kept(module, 2) - kept(module, 1)

    with META:
        plain, checkpointed = build(False), build(True)
    trained = sum(weight.numel() for weight in plain.parameters() if weight.requires_grad)
    total = sum(weight.numel() for weight in plain.parameters())
    return Footprint(total - trained if lora else total, trained, a_picture(plain), a_picture(checkpointed))


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


class _Ledger:
    """Each storage once, however many operations keep it; weights are counted elsewhere."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.bytes = 0
        self._known = {weight.untyped_storage()._cdata for weight in model.parameters()}
        self._alive: list[Tensor] = []  # else the address of a freed storage could come again

    def note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._alive.append(tensor)
            self.bytes += storage.nbytes()
        return tensor


class _Autocast(TorchFunctionMode):
    def __init__(self, half: torch.dtype | None) -> None:
        super().__init__()
        self._half = half

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            query, key, value = (_cast(tensor, self._half) for tensor in args[:3])
            return _Attention.apply(query, key, value)  # type: ignore[no-untyped-call]
        wanted = self._half if func in _IN_HALF else torch.float32 if func in _IN_FULL else None
        if self._half is None or wanted is None:
            return func(*args, **(kwargs or {}))
        return func(*(_cast(item, wanted) for item in args), **{k: _cast(v, wanted) for k, v in (kwargs or {}).items()})


def _cast(value: Any, wanted: torch.dtype | None) -> Any:
    return value.to(wanted) if wanted and isinstance(value, Tensor) and value.is_floating_point() else value


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        rows = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, output, rows)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError("shapes alone are traced, forward")
