"""Pictures on their way from noise: the latents that a model meets while it draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from .schedule import NoiseSchedule

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(latents [n, c, h, w], timesteps [n] int64) -> prediction, guided or not."""


@torch.no_grad()
def trajectory(
    predict: Predict,
    schedule: NoiseSchedule,
    noise: torch.Tensor,
    *,
    steps: int,
    generator: torch.Generator,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The latents of pictures that are drawn by DDIM (eta 0), each with its timestep.

    Every picture has its own timesteps, drawn one from each of `steps` equal parts of the
    schedule, so that together they cover all of it and not a grid.

    Args:
        noise: [n, c, h, w], unit normal.
        steps: how many latents each picture gives.

    Yields:
        Latents [n, c, h, w] and timesteps int64 [n], from noisy to nearly clean.

    Source: DDIM, Song et al. 2021, eq. 12.
    """
    width = len(schedule) / steps
    parts = torch.arange(steps - 1, -1, -1, device=noise.device)[:, None]
    places = torch.rand(steps, len(noise), generator=generator, device=noise.device)
    timesteps = ((parts + places) * width).long().clamp(max=len(schedule) - 1)  # [steps, n]
    latents = noise
    for index, now in enumerate(timesteps):
        yield latents, now
        if index + 1 < steps:
            latents = ddim_step(schedule, latents, predict(latents, now), now, timesteps[index + 1])


def ddim_step(
    schedule: NoiseSchedule,
    latents: torch.Tensor,
    prediction: torch.Tensor,
    timesteps: torch.Tensor,
    next_timesteps: torch.Tensor,
) -> torch.Tensor:
    """Latents at `next_timesteps` from those at `timesteps` (int64 [n] each), without new noise.

    Source: DDIM, Song et al. 2021, eq. 12 with sigma 0; Salimans & Ho 2022 for the velocity.
    """
    signal, sigma = schedule.scales(latents, timesteps)
    if schedule.prediction_type == "v_prediction":
        clean = signal * latents - sigma * prediction
        noise = sigma * latents + signal * prediction
    else:
        clean, noise = (latents - sigma * prediction) / signal, prediction
    next_signal, next_sigma = schedule.scales(latents, next_timesteps)
    return next_signal * clean + next_sigma * noise
