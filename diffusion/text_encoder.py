"""CLIP's text model, which reads prompts for Stable Diffusion. Radford et al. 2021, arXiv 2103.00020."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffusion.configuration import TextEncoderConfig, UnsupportedModel
from diffusion.layers import Embedding, Level, Linear


def quick_gelu(hidden: Tensor) -> Tensor:
    return hidden * torch.sigmoid(1.702 * hidden)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": functional.gelu}


class TextEncoder(nn.Module):
    def __init__(self, config: TextEncoderConfig) -> None:
        """Raises UnsupportedModel."""
        super().__init__()
        if config.hidden_act not in ACTIVATIONS:
            raise UnsupportedModel(f"hidden_act: {config.hidden_act!r} is not one of {', '.join(ACTIVATIONS)}")
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Layers(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    @property
    def vocabulary(self) -> nn.Embedding:
        return self.embeddings.token_embedding

    def forward(self, ids: Tensor) -> Tensor:
        """Tokens (B, T) -> the last hidden state, (B, T, width)."""
        output: Tensor = self.final_layer_norm(self.encoder(self.embeddings(ids)))
        return output


class Embeddings(nn.Module):
    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.token_embedding = Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[-1], device=ids.device)
        embedded: Tensor = self.token_embedding(ids) + self.position_embedding(positions)
        return embedded


class Layers(Level):
    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = self.run(layer, hidden)
        return hidden


class Layer(nn.Module):
    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.self_attn = CausalAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = FeedForward(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        output: Tensor = hidden + self.mlp(self.layer_norm2(hidden))
        return output


class CausalAttention(nn.Module):
    """Each token attends to itself and to those before it."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self._heads = config.num_attention_heads
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.q_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = (self._split(layer(hidden)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        output: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return output

    def _split(self, hidden: Tensor) -> Tensor:
        return hidden.view(*hidden.shape[:2], self._heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self._activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        output: Tensor = self.fc2(self._activation(self.fc1(hidden)))
        return output
