"""The DreamBooth loss: a pure function of its draws.

Ruiz et al. 2022, arXiv 2208.12242, section 3.2: the denoising loss of the subject plus a weighted one of its class.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from diffusion.autoencoder import sample_posterior
from training_container.dreambooth.draws import StepDraws
from training_container.dreambooth.schedule import NoiseSchedule

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]  # noisy latents, timesteps, text embeddings -> prediction


def combine(
    prediction: Tensor, target: Tensor, prior_loss_weight: float | None, sample_weights: Tensor | None = None
) -> Tensor:
    """Mean squared error in fp32. With a weight, the first half is the subject's and the second the class's.

    sample_weights: (B,), what each sample's error counts.
    """
    errors = (prediction.float() - target.float()).square().mean((1, 2, 3))
    if sample_weights is not None:
        errors = errors * sample_weights
    if prior_loss_weight is None:
        return errors.mean()
    subject, prior = errors.chunk(2)
    return subject.mean() + prior_loss_weight * prior.mean()


def loss_step(
    predict: Predict,
    schedule: NoiseSchedule,
    moments: Tensor,
    embeddings: Tensor,
    draws: StepDraws,
    *,
    scaling_factor: float,
    prior_loss_weight: float | None = None,
    snr_gamma: float | None = None,
    noise_offset: float = 0.0,
) -> Tensor:
    """Loss of one batch: a scalar in fp32.

    moments: (B, 2C, H, W), mean and log variance of the VAE posterior. embeddings: (B, tokens, width).
    With prior_loss_weight the batch holds B/2 subject pictures, then B/2 class pictures.
    """
    latents = sample_posterior(moments, draws.posterior) * scaling_factor
    noise = draws.noise + noise_offset * draws.offset
    noisy = schedule.add_noise(latents, noise, draws.timesteps)
    target = schedule.target(latents, noise, draws.timesteps)
    weights = None if snr_gamma is None else schedule.min_snr_weights(draws.timesteps, snr_gamma)
    return combine(predict(noisy, draws.timesteps, embeddings), target, prior_loss_weight, weights)
