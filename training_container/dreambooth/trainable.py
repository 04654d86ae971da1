"""Which weights of the base model are trained, and how the model predicts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPTextModel

from contracts.training import Hyperparameters
from training_container.dreambooth.attention import use_attention
from training_container.dreambooth.lora import add_adapters
from training_container.dreambooth.precision import Precision


@dataclass
class Trainable:
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    precision: Precision
    parameters: dict[str, torch.nn.Parameter]  # by unique name, always fp32

    def predict(self, noisy: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        """(B, C, h, w) -> the UNet's prediction of the same shape, in fp32."""
        with self.precision.autocast():
            prediction: Tensor = self.unet(noisy, timesteps, embeddings, return_dict=False)[0]
        return prediction.float()

    def train_mode(self, training: bool) -> None:
        self.unet.train(training)
        self.text_encoder.train(training)


def make_trainable(
    unet: UNet2DConditionModel, text_encoder: CLIPTextModel, settings: Hyperparameters, precision: Precision
) -> Trainable:
    """Expects frozen modules on the CPU; leaves them on the device with exactly the asked weights trainable."""
    if settings.method == "lora":
        add_adapters(
            unet,
            text_encoder if settings.train_text_encoder else None,
            rank=settings.lora_rank,
            alpha=settings.lora_alpha or settings.lora_rank,
            targets=settings.lora_targets,
            seed=settings.seed,
        )
    else:
        unet.requires_grad_(True)
        text_encoder.requires_grad_(settings.train_text_encoder)
    if settings.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
        if settings.train_text_encoder:
            text_encoder.activation_checkpointing_enable({"use_reentrant": False})
    parameters: dict[str, torch.nn.Parameter] = {}
    for prefix, module in (("unet", unet), ("text_encoder", text_encoder)):
        precision.place(module)
        parameters |= {f"{prefix}.{name}": weight for name, weight in module.named_parameters() if weight.requires_grad}
    use_attention(unet, settings.attention, precision)
    return Trainable(unet, text_encoder, precision, parameters)
