"""The loss of a denoising step: error per sample, weighted by noise level."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from .schedule import NoiseSchedule

ErrorFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

ERRORS: dict[str, ErrorFunction] = {
    "MSE": lambda a, b: functional.mse_loss(a, b, reduction="none"),
    "L1": lambda a, b: functional.l1_loss(a, b, reduction="none"),
    "Smooth-L1": lambda a, b: functional.smooth_l1_loss(a, b, reduction="none"),
}
"""Elementwise errors under the names that the settings use."""


def min_snr_weights(schedule: NoiseSchedule, gamma: float) -> torch.Tensor:
    """Weight of every timestep's error, float32 [timesteps].

    min(snr, gamma) / snr for noise prediction, min(snr, gamma) / (snr + 1) for velocity
    prediction; 1 everywhere when gamma is 0.

    Source: Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting", section 3.4.
    """
    snr = schedule.snr
    if gamma == 0:
        return torch.ones_like(snr)
    clipped = snr.clamp(max=gamma)
    return clipped / (snr + 1 if schedule.prediction_type == "v_prediction" else snr)


def denoising_errors(
    prediction: torch.Tensor,
    target: torch.Tensor,
    timesteps: torch.Tensor,
    weights: torch.Tensor,
    error: str = "MSE",
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Each sample's mean error times its timestep's weight.

    Args:
        prediction: [n, c, h, w].
        target: same shape.
        timesteps: int64 [n].
        weights: float32 [all timesteps], see `min_snr_weights`.
        error: a name of `ERRORS`.
        mask: [n, 1, h, w], how much each place counts; only the proportions matter, so that a
            small mask does not make a small loss.

    Returns:
        float32 [n].
    """
    errors = ERRORS[error](prediction.float(), target.float())
    if mask is not None:
        errors = errors * (mask / mask.mean((2, 3), keepdim=True))
    per_sample = errors.mean((1, 2, 3))
    return per_sample * weights[timesteps]


def denoising_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    timesteps: torch.Tensor,
    weights: torch.Tensor,
    error: str = "MSE",
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over the batch of `denoising_errors`, whose arguments it has; a float32 scalar."""
    return denoising_errors(prediction, target, timesteps, weights, error, mask).mean()
