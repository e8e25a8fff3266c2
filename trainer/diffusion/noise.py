"""The noise that is added to latents in training: plain, shifted, coarse."""

from __future__ import annotations

import torch
from torch.nn import functional

from ..settings.groups import NoiseSettings


def training_noise(
    latents: torch.Tensor, settings: NoiseSettings, generator: torch.Generator
) -> torch.Tensor:
    """Noise for latents [n, c, h, w], of the same shape and on the same device."""
    noise = _normal(latents.shape, latents, generator)
    if settings.noise_offset:
        noise = offset_noise(
            noise, latents, settings.noise_offset, settings.adaptive_noise_scale, generator
        )
    if settings.multires_noise_iterations:
        noise = pyramid_noise(
            noise,
            settings.multires_noise_iterations,
            settings.multires_noise_discount,
            generator,
        )
    return noise


def offset_noise(
    noise: torch.Tensor,
    latents: torch.Tensor,
    offset: float,
    adaptive_scale: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Noise [n, c, h, w] with one random number more for each sample and channel.

    That number has the deviation offset + adaptive_scale * |mean of the latents' channel|, at
    least 0.

    Source: Guttenberg 2023, "Diffusion with Offset Noise"; the adaptive part is sd-scripts'.
    """
    deviation = offset + adaptive_scale * latents.mean((2, 3), keepdim=True).abs()
    shift = _normal((*noise.shape[:2], 1, 1), noise, generator)
    return noise + deviation.clamp(min=0) * shift


def pyramid_noise(
    noise: torch.Tensor, iterations: int, discount: float, generator: torch.Generator
) -> torch.Tensor:
    """Noise [n, c, h, w] with coarser and coarser noise added, of unit deviation over all.

    Level i = 0, 1, ... has sides of h / 2^i and w / 2^i and counts discount^i; there are
    `iterations` of them, or fewer where a side reaches 1.

    Source: Whitaker 2023, "Multi-Resolution Noise for Diffusion Model Training"; there each level
    is smaller by a factor drawn from 2 to 4, here by 2.
    """
    height, width = noise.shape[2:]
    total = noise
    for level in range(iterations):
        small = (max(1, height >> level), max(1, width >> level))
        coarse = _normal((*noise.shape[:2], *small), noise, generator)
        enlarged = functional.interpolate(coarse, (height, width), mode="bilinear")
        total = total + discount**level * enlarged
        if min(small) == 1:
            break
    return total / total.std()


def perturbed(noise: torch.Tensor, gamma: float, generator: torch.Generator) -> torch.Tensor:
    """The noise that is added where `noise` is to be found again: noise + gamma * more noise.

    Source: Ning et al. 2023, "Input Perturbation Reduces Exposure Bias in Diffusion Models",
    algorithm 2.
    """
    if gamma == 0:
        return noise
    return noise + gamma * _normal(noise.shape, noise, generator)


def _normal(
    shape: tuple[int, ...] | torch.Size, like: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)
