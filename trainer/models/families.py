"""The model families, one row each.

What a checkpoint's tensors tell by their shapes (widths, depths, the number of blocks) is read off
them in assemble.py; a row holds what they cannot tell.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..settings.groups import BLOCKS
from .ldm_names import UNET_PREFIX


@dataclass(frozen=True)
class TextEncoderRow:
    """One of a family's text encoders, and what of its output the UNet is told."""

    prefix: str
    """Where it lies in a checkpoint."""
    layout: str
    """How its tensors are named there: "clip" as transformers does, or "openclip"."""
    activation: str = "gelu"
    """transformers' name of its activation function."""
    pad_token: int | None = None
    """Fills windows up after their end mark; None: the end mark again."""
    last_layers_unused: int = 0
    """Layers at its end that the family never computes; they are left out."""
    layer: int | None = None
    """Which hidden state is taken, counted from the end; None: the one that CLIP skip says."""
    final_norm: bool = True
    """Whether that state passes the final layer norm."""
    pooled: bool = False
    """Whether the UNet is also told the projected state of the first window's end mark."""


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
    text_encoders: tuple[TextEncoderRow, ...]
    """In the order in which their states lie side by side."""
    resolution_px: int
    """Side of the square pictures that the family was trained on."""
    unmarked_velocity: bool = False
    """Some of its checkpoints predict the velocity and bear no mark of it."""
    empty_negative_is_zero: bool = False
    """Pictures without a negative prompt are drawn against zeros instead of an empty prompt."""
    vae_needs_range: bool = False
    """Its autoencoder's values go beyond what float16 holds."""
    blocks_a_side: int = 12
    """Blocks of the UNet on the way in, and as many on the way out."""

    @property
    def blocks(self) -> tuple[str, ...]:
        """Which of the 26 blocks it has."""
        return tuple(
            name
            for name in BLOCKS
            if name in ("BASE", "M00") or int(name[-2:]) < self.blocks_a_side
        )

    @property
    def takes_clip_skip(self) -> bool:
        """Whether the user says which of the text encoder's layers is taken."""
        return any(row.layer is None for row in self.text_encoders)


SD1 = Family(
    name="sd1",
    title="Stable Diffusion 1",
    latent_scale=0.18215,
    attention_heads=8,
    text_encoders=(
        TextEncoderRow("cond_stage_model.transformer.", "clip", activation="quick_gelu"),
    ),
    resolution_px=512,
)
SD2 = Family(
    name="sd2",
    title="Stable Diffusion 2",
    latent_scale=0.18215,
    attention_heads=None,
    text_encoders=(
        # Source: the published v2-inference configs: the penultimate layer of OpenCLIP H.
        TextEncoderRow(
            "cond_stage_model.model.", "openclip", pad_token=0, last_layers_unused=1, layer=1
        ),
    ),
    resolution_px=768,
    unmarked_velocity=True,
)
SDXL = Family(
    name="sdxl",
    title="Stable Diffusion XL",
    latent_scale=0.13025,
    attention_heads=None,
    text_encoders=(
        # Source: the published sd_xl_base config: hidden states before the last layer, no norm.
        TextEncoderRow(
            "conditioner.embedders.0.transformer.",
            "clip",
            activation="quick_gelu",
            layer=2,
            final_norm=False,
        ),
        TextEncoderRow(
            "conditioner.embedders.1.model.",
            "openclip",
            pad_token=0,
            layer=2,
            final_norm=False,
            pooled=True,
        ),
    ),
    resolution_px=1024,
    empty_negative_is_zero=True,
    vae_needs_range=True,
    blocks_a_side=9,
)

FAMILIES = (SD1, SD2, SDXL)

SIZE_EMBEDDING_WIDTH = 256
"""Width in which SDXL's UNet is told each of six sizes.  Source: the sd_xl_base config."""

CONV_IN = UNET_PREFIX + "input_blocks.0.0.weight"
