"""The loss of a denoising step: error per sample, weighted by noise level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from ..settings.groups import LossSettings
from .schedule import NoiseSchedule
from .weighting import loss_weights, min_snr_weights

__all__ = ["ERRORS", "Criterion", "denoising_loss", "huber_widths", "min_snr_weights"]

ErrorFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(answer [n, c, h, w], wanted of the same shape, width [n, 1, 1, 1]) -> errors of that shape."""


def pseudo_huber(a: torch.Tensor, b: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """2 c (sqrt((a - b)^2 + c^2) - c) with the width c: (a - b)^2 below c, 2 c |a - b| above.

    Source: Khrapov et al. 2024, "Improving Diffusion Models's Data-Corruption Resistance using
    Scheduled Pseudo-Huber Loss", eq. 4, scaled as in sd-scripts.
    """
    squares = (a - b).square()
    # the same as the difference above, whose small results float32 would lose
    return 2 * width * squares / ((squares + width.square()).sqrt() + width)


ERRORS: dict[str, ErrorFunction] = {
    "MSE": lambda a, b, _: functional.mse_loss(a, b, reduction="none"),
    "L1": lambda a, b, _: functional.l1_loss(a, b, reduction="none"),
    "Smooth-L1": lambda a, b, _: functional.smooth_l1_loss(a, b, reduction="none"),
    "Huber": pseudo_huber,
    "Pseudo-L1": lambda a, b, width: pseudo_huber(a, b, width) / width,
}
"""Elementwise errors under the names that the settings use."""


def huber_widths(schedule: NoiseSchedule, c: float, how: str) -> torch.Tensor:
    """Width of the Huber loss at every timestep, float32 [timesteps].

    constant: c.  exponential: c^(t / T), from 1 to nearly c.  snr: (1 - c) / (1 + sigma)^2 + c
    with sigma = 1 / sqrt(snr), also from nearly 1 towards c.

    Source: Khrapov et al. 2024, section 4.2, as sd-scripts has it.
    """
    count = len(schedule)
    if how == "constant":
        return torch.full((count,), c, device=schedule.alphas_cumprod.device)
    if how == "exponential":
        places = torch.arange(count, device=schedule.alphas_cumprod.device) / count
        return torch.pow(torch.full_like(places, c), places)
    sigmas = schedule.snr.rsqrt()
    return (1 - c) / (1 + sigmas).square() + c


@dataclass(frozen=True)
class Criterion:
    """How the error of an answer is measured; one for a whole training.

    Attributes:
        error: a name of `ERRORS`.
        weights: float32 [timesteps], how much each noise level counts.
        widths: float32 [timesteps], see `huber_widths`.
        normalised_mask: only a mask's proportions matter, so that a small one makes no small loss.
    """

    error: str
    weights: torch.Tensor
    widths: torch.Tensor
    normalised_mask: bool = True

    @classmethod
    def of(
        cls, schedule: NoiseSchedule, settings: LossSettings, *, normalised_mask: bool = True
    ) -> Criterion:
        """By the settings, on the schedule's device."""
        widths = huber_widths(schedule, settings.huber_c, settings.huber_schedule)
        return cls(settings.loss, loss_weights(schedule, settings), widths, normalised_mask)

    def errors(
        self,
        prediction: torch.Tensor,
        target: torch.Tensor,
        timesteps: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Each sample's mean error times its timestep's weight, float32 [n].

        Args:
            prediction: [n, c, h, w].
            target: same shape.
            timesteps: int64 [n].
            mask: [n, 1, h, w], how much each place counts.
        """
        widths = self.widths[timesteps].view(-1, 1, 1, 1)
        errors = ERRORS[self.error](prediction.float(), target.float(), widths)
        if mask is not None and self.normalised_mask:
            mask = mask / mask.mean((2, 3), keepdim=True)
        if mask is not None:
            errors = errors * mask
        return errors.mean((1, 2, 3)) * self.weights[timesteps]

    def loss(
        self,
        prediction: torch.Tensor,
        target: torch.Tensor,
        timesteps: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean of `errors`, whose arguments it has; a float32 scalar."""
        return self.errors(prediction, target, timesteps, mask).mean()


def denoising_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    timesteps: torch.Tensor,
    weights: torch.Tensor,
    error: str = "MSE",
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """`Criterion.loss` with these weights, and a Huber width of 1; a float32 scalar."""
    widths = torch.ones_like(weights)
    return Criterion(error, weights, widths).loss(prediction, target, timesteps, mask)
