"""The noise schedule of the Stable Diffusion families."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

TRAIN_TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012

PredictionType = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class NoiseSchedule:
    """Variance-preserving forward process x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise.

    Attributes:
        alphas_cumprod: float32 [timesteps], a_t, falling from nearly 1.
        prediction_type: what the model predicts.
    """

    alphas_cumprod: torch.Tensor
    prediction_type: PredictionType = "epsilon"

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    @property
    def betas(self) -> torch.Tensor:
        """float32 [timesteps], 1 - a_t / a_(t-1)."""
        previous = torch.cat([self.alphas_cumprod.new_ones(1), self.alphas_cumprod[:-1]])
        return 1 - self.alphas_cumprod / previous

    @property
    def snr(self) -> torch.Tensor:
        """float32 [timesteps], signal-to-noise ratio a_t / (1 - a_t)."""
        return self.alphas_cumprod / (1 - self.alphas_cumprod)

    @property
    def ends_in_noise(self) -> bool:
        """Whether the last step is pure noise."""
        return bool(self.alphas_cumprod[-1] == 0)

    def to(self, device: torch.device) -> NoiseSchedule:
        return NoiseSchedule(self.alphas_cumprod.to(device), self.prediction_type)

    def add_noise(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """x_t for latents and noise [n, c, h, w] and timesteps [n] (int64).

        Source: Ho et al. 2020, eq. 4.
        """
        signal, sigma = self.scales(latents, timesteps)
        return signal * latents + sigma * noise

    def velocity(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """v = sqrt(a_t) noise - sqrt(1 - a_t) x_0, shapes as in `add_noise`.

        Source: Salimans & Ho 2022, section 4.
        """
        signal, sigma = self.scales(latents, timesteps)
        return signal * noise - sigma * latents

    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """What the model should predict: the noise, or the velocity."""
        if self.prediction_type == "v_prediction":
            return self.velocity(latents, noise, timesteps)
        return noise

    def scales(
        self, like: torch.Tensor, timesteps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """sqrt(a_t) and sqrt(1 - a_t), [n, 1, 1, 1] in `like`'s dtype and on its device."""
        alphas = self.alphas_cumprod.to(like.device)[timesteps].to(like.dtype)
        alphas = alphas.view(-1, 1, 1, 1)
        return alphas.sqrt(), (1 - alphas).sqrt()


def scaled_linear(prediction_type: PredictionType = "epsilon") -> NoiseSchedule:
    """Stable Diffusion's schedule: betas linear in their square roots.

    Source: CompVis stable-diffusion v1 config (linear_start, linear_end, timesteps).
    """
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_TIMESTEPS, dtype=torch.float64)
    alphas_cumprod = torch.cumprod(1 - betas.square(), 0).float()
    return NoiseSchedule(alphas_cumprod, prediction_type)


def zero_terminal_snr(schedule: NoiseSchedule) -> NoiseSchedule:
    """The schedule whose last step is pure noise, for models that were trained with such a one.

    Only a model that predicts the velocity can be: at the last step the noise says nothing.

    Source: Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed",
    algorithm 1.
    """
    roots = schedule.alphas_cumprod.double().sqrt()
    first, last = roots[0], roots[-1]
    rescaled = (roots - last) * first / (first - last)
    return NoiseSchedule(rescaled.square().float(), schedule.prediction_type)
