"""Drawing pictures with the assembled model, whatever network is attached to it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from PIL import Image

from ..diffusion.sampling import sample_guided
from ..models.model import DiffusionModel

LATENT_CELL_PX = 8


@torch.no_grad()
def draw_pictures(
    model: DiffusionModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    negative_prompt: str = "",
    size_px: tuple[int, int] = (64, 64),
    steps: int = 20,
    guidance_scale: float = 5.0,
    batch_size: int = 32,
) -> list[Image.Image]:
    """Draws one picture for each prompt by DDIM.

    The noise of a picture depends on its seed and size alone: not on the batch, not on the
    device.

    Args:
        prompts: one for each picture.
        seeds: one for each picture.
        size_px: (height, width), multiples of 8.

    Returns:
        RGB pictures in the order of the prompts.
    """
    pictures: list[Image.Image] = []
    for first in range(0, len(prompts), batch_size):
        part = list(prompts[first : first + batch_size])
        noise = torch.stack([_noise(s, size_px) for s in seeds[first : first + batch_size]])
        told = model.encode_guided(part, negative_prompt)
        latents = sample_guided(
            partial(model.denoise, conditioning=told),
            model.schedule,
            noise.to(model.device),
            steps=steps,
            guidance_scale=guidance_scale,
        )
        pictures += to_images(model.decode_latents(latents))
    return pictures


def to_images(pixels: torch.Tensor) -> list[Image.Image]:
    """Pixels [n, 3, h, w] in -1..1 as RGB pictures."""
    values = ((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    return [Image.fromarray(picture) for picture in values.cpu().numpy()]


def contact_sheet(rows: Sequence[Sequence[Image.Image]], gap_px: int = 4) -> Image.Image:
    """Pictures of equal size in rows, on white."""
    width, height = rows[0][0].size
    columns = max(len(row) for row in rows)
    sheet = Image.new(
        "RGB",
        (columns * (width + gap_px) + gap_px, len(rows) * (height + gap_px) + gap_px),
        "white",
    )
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (gap_px + x * (width + gap_px), gap_px + y * (height + gap_px)))
    return sheet


def _noise(seed: int, size_px: tuple[int, int]) -> torch.Tensor:
    height, width = (side // LATENT_CELL_PX for side in size_px)
    return torch.randn(4, height, width, generator=torch.Generator().manual_seed(seed))
