"""How much each noise level's error counts."""

from __future__ import annotations

import torch

from ..settings.groups import LossSettings
from .schedule import NoiseSchedule

MOST_SNR = 1000.0
"""Signal-to-noise ratios count as this at most, as in sd-scripts: at t = 0 it is above 1000."""
LEAST_SCALE = 1e-3
"""Under zero terminal SNR the last step's scale would be 0, and is divided by."""


def loss_weights(schedule: NoiseSchedule, settings: LossSettings) -> torch.Tensor:
    """Weight of every timestep's error, float32 [timesteps]; the product of what is chosen."""
    if settings.debiased_estimation:
        weights = debiased_weights(schedule)
    else:
        weights = min_snr_weights(schedule, settings.min_snr_gamma)
    if settings.scale_velocity_loss and schedule.prediction_type == "v_prediction":
        weights = weights * velocity_scale(schedule)
    if settings.velocity_like_loss:
        scale = velocity_scale(schedule).clamp(min=LEAST_SCALE)
        weights = weights * (1 + settings.velocity_like_loss / scale)
    return weights


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


def debiased_weights(schedule: NoiseSchedule) -> torch.Tensor:
    """1 / sqrt(snr) for noise prediction, 1 / (snr + 1) for velocity prediction, [timesteps].

    Source: Yu et al. 2023, "Debias the Training of Diffusion Models", eq. 9; the form for the
    velocity is sd-scripts'.
    """
    snr = schedule.snr.clamp(max=MOST_SNR)
    if schedule.prediction_type == "v_prediction":
        return 1 / (snr + 1)
    return snr.rsqrt()


def velocity_scale(schedule: NoiseSchedule) -> torch.Tensor:
    """snr / (snr + 1), [timesteps]: the error of a noise against that of a velocity, squared.

    With the answer v, the noise is sqrt(a) v + sqrt(1 - a) x_t, so that its error is sqrt(a) times
    that of v, and a = snr / (snr + 1).

    Source: Salimans & Ho 2022, section 4.
    """
    snr = schedule.snr.clamp(max=MOST_SNR)
    return snr / (snr + 1)
