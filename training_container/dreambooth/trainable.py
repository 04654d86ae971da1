"""Which weights of the base model are trained, and how the model predicts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from contracts.training import Hyperparameters
from diffusion.layers import recompute_activations
from diffusion.text_encoder import TextEncoder
from diffusion.unet import UNet
from training_container.dreambooth.attention import use_attention
from training_container.dreambooth.lora import LoraSettings, add_adapters
from training_container.dreambooth.precision import Precision


@dataclass
class Trainable:
    unet: UNet
    text_encoder: TextEncoder
    precision: Precision
    parameters: dict[str, torch.nn.Parameter]  # by unique name, always fp32

    def predict(self, noisy: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        """(B, C, h, w) -> the UNet's prediction of the same shape, in fp32."""
        with self.precision.autocast():
            prediction: Tensor = self.unet(noisy, timesteps, embeddings)
        return prediction.float()

    def train_mode(self, training: bool) -> None:
        self.unet.train(training)
        self.text_encoder.train(training)


def make_trainable(unet: UNet, text_encoder: TextEncoder, settings: Hyperparameters, precision: Precision) -> Trainable:
    """Expects frozen modules on the CPU; leaves them on the device with exactly the asked weights trainable."""
    if settings.method == "lora":
        adapted = text_encoder if settings.train_text_encoder else None
        add_adapters(unet, adapted, LoraSettings.of(settings), seed=settings.seed)
    else:
        unet.requires_grad_(True)
        text_encoder.requires_grad_(settings.train_text_encoder)
    if settings.gradient_checkpointing:
        recompute_activations(unet)
        if settings.train_text_encoder:
            recompute_activations(text_encoder)
    parameters: dict[str, torch.nn.Parameter] = {}
    for prefix, module in (("unet", unet), ("text_encoder", text_encoder)):
        precision.place(module)
        parameters |= {f"{prefix}.{name}": weight for name, weight in module.named_parameters() if weight.requires_grad}
    use_attention(unet, settings.attention, precision)
    return Trainable(unet, text_encoder, precision, parameters)
