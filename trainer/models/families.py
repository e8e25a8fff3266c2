"""The model families, one row each."""

from __future__ import annotations

from dataclasses import dataclass

from .ldm_names import UNET_PREFIX


@dataclass(frozen=True)
class Family:
    """What distinguishes one family's checkpoints from another's."""

    name: str
    """Short name: "sd1"."""
    title: str
    latent_scale: float
    """Factor from the autoencoder's output to latents of about unit variance."""
    attention_heads: int | None
    """Heads in every attention of the UNet; None: 64 channels a head instead."""
    text_prefixes: tuple[str, ...]
    """Where the text encoders lie in a checkpoint, in the order in which they are used."""
    resolution_px: int
    """Side of the square pictures that the family was trained on."""


SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1",
    latent_scale=0.18215,
    attention_heads=8,
    text_prefixes=("cond_stage_model.transformer.",),
    resolution_px=512,
)

FAMILIES = (SD1,)

CONV_IN = UNET_PREFIX + "input_blocks.0.0.weight"
