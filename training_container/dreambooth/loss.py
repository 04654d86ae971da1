"""The DreamBooth loss: a pure function of its draws.

Ruiz et al. 2022, arXiv 2208.12242, section 3.2: the denoising loss of the subject plus a weighted one of its class.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import mse_loss

from training_container.dreambooth.draws import StepDraws
from training_container.dreambooth.latents import sample_posterior
from training_container.dreambooth.schedule import NoiseSchedule

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]  # noisy latents, timesteps, text embeddings -> prediction


def combine(prediction: Tensor, target: Tensor, prior_loss_weight: float | None) -> Tensor:
    """Mean squared error in fp32. With a weight, the first half is the subject's and the second the class's."""
    if prior_loss_weight is None:
        return mse_loss(prediction.float(), target.float())
    subject, prior = prediction.float().chunk(2)
    subject_target, prior_target = target.float().chunk(2)
    return mse_loss(subject, subject_target) + prior_loss_weight * mse_loss(prior, prior_target)


def loss_step(
    predict: Predict,
    schedule: NoiseSchedule,
    moments: Tensor,
    embeddings: Tensor,
    draws: StepDraws,
    *,
    scaling_factor: float,
    prior_loss_weight: float | None = None,
) -> Tensor:
    """Loss of one batch: a scalar in fp32.

    moments: (B, 2C, H, W), mean and log variance of the VAE posterior. embeddings: (B, tokens, width).
    With prior_loss_weight the batch holds B/2 subject pictures, then B/2 class pictures.
    """
    latents = sample_posterior(moments, draws.posterior) * scaling_factor
    noisy = schedule.add_noise(latents, draws.noise, draws.timesteps)
    target = schedule.target(latents, draws.noise, draws.timesteps)
    return combine(predict(noisy, draws.timesteps, embeddings), target, prior_loss_weight)
