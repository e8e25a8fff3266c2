"""Drawing pictures with a denoiser: DDIM with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import DDIMScheduler

from .schedule import NoiseSchedule

Denoiser = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(latents [n,4,h,w], timesteps [n] int64, context [n,tokens,width]) -> prediction [n,4,h,w]."""
GuidedDenoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(latents [2n,4,h,w], timesteps [2n] int64) -> predictions, of the negative prompts first."""


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
    """As `sample_guided`, for a denoiser that is told prompts as one tensor.

    Args:
        context: [n, tokens, width], the prompts' states.
        negative_context: same shape; the negative prompts' states.
    """
    both = torch.cat([negative_context, context])
    return sample_guided(
        lambda latents, timesteps: denoise(latents, timesteps, both),
        schedule,
        noise,
        steps=steps,
        guidance_scale=guidance_scale,
    )


@torch.no_grad()
def sample_guided(
    denoise: GuidedDenoiser,
    schedule: NoiseSchedule,
    noise: torch.Tensor,
    *,
    steps: int = 20,
    guidance_scale: float = 5.0,
) -> torch.Tensor:
    """Denoises `noise` into latents by DDIM (eta 0).

    Args:
        noise: [n, 4, h/8, w/8], unit normal.

    Returns:
        Latents of `noise`'s shape and dtype, in the scale that the denoiser was trained on.

    Source: DDIM, Song et al. 2021, eq. 12; guidance, Ho & Salimans 2022, eq. 6; where steps
        begin under zero terminal SNR, Lin et al. 2024, section 3.3.
    """
    # A model that was trained on pure noise must begin there; others know nothing of it.
    from_pure_noise = bool(schedule.alphas_cumprod[-1] == 0)
    scheduler = DDIMScheduler(
        num_train_timesteps=len(schedule),
        trained_betas=schedule.betas.cpu().numpy(),
        prediction_type=schedule.prediction_type,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing" if from_pure_noise else "leading",
    )
    scheduler.set_timesteps(steps, device=noise.device)
    latents = noise
    for timestep in scheduler.timesteps:
        timesteps = timestep.expand(2 * len(latents))
        prediction = denoise(torch.cat([latents, latents]), timesteps)
        negative, positive = prediction.to(latents.dtype).chunk(2)
        guided = negative + guidance_scale * (positive - negative)
        latents = scheduler.step(guided, timestep, latents).prev_sample
    return latents
