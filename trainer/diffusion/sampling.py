"""Drawing pictures with a denoiser: DDIM with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler

from .schedule import NoiseSchedule

Denoiser = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(latents [n,4,h,w], timesteps [n] int64, context [n,tokens,width]) -> prediction [n,4,h,w]."""


@torch.no_grad()
def sample_latents(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    context: torch.Tensor,
    negative_context: torch.Tensor,
    noise: torch.Tensor,
    *,
    steps: int = 20,
    guidance_scale: float = 5.0,
) -> torch.Tensor:
    """Denoises `noise` into latents by DDIM (eta 0).

    Args:
        context: [n, tokens, width], the prompts' states.
        negative_context: same shape; the negative prompts' states.
        noise: [n, 4, h/8, w/8], unit normal.

    Returns:
        Latents of `noise`'s shape and dtype, in the scale that the denoiser was trained on.

    Source: DDIM, Song et al. 2021, eq. 12; guidance, Ho & Salimans 2022, eq. 6.
    """
    scheduler = DDIMScheduler(
        num_train_timesteps=len(schedule),
        trained_betas=schedule.betas.cpu().numpy(),
        prediction_type=schedule.prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(steps, device=noise.device)
    both = torch.cat([negative_context, context])
    latents = noise
    for timestep in scheduler.timesteps:
        timesteps = timestep.expand(len(both))
        prediction = denoise(torch.cat([latents, latents]), timesteps, both)
        negative, positive = prediction.to(latents.dtype).chunk(2)
        guided = negative + guidance_scale * (positive - negative)
        latents = scheduler.step(guided, timestep, latents).prev_sample
    return latents
