"""Which family a checkpoint belongs to, told from its tensors alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .families import CONV_IN, SD1, Family
from .ldm_names import UNET_PREFIX

Tensors = Mapping[str, torch.Tensor]

_OPENCLIP = "cond_stage_model.model.transformer.resblocks.0.ln_1.weight"
_SD1_TEXT = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
_SD1_TEXT_OLD = "cond_stage_model.transformer.embeddings.token_embedding.weight"
_SDXL_TEXT_2 = "conditioner.embedders.1.model.ln_final.weight"
_SDXL_REFINER_TEXT = "conditioner.embedders.0.model.ln_final.weight"
_LABELS = UNET_PREFIX + "label_emb.0.0.weight"
_MIDDLE_ATTENTION = UNET_PREFIX + "middle_block.1.proj_in.weight"


@dataclass(frozen=True)
class Detection:
    """What a file is.

    Attributes:
        family: the family when Trainyard can train on it, else None.
        title: what the file is, in words: "Stable Diffusion XL", "a LoRA file".
        reason: why it cannot be trained on; empty when it can.
    """

    family: Family | None
    title: str
    reason: str = ""


def detect(tensors: Tensors) -> Detection:
    """Looks at names and shapes only; never fails."""
    if CONV_IN not in tensors:
        title = _not_a_checkpoint(tensors)
        return Detection(None, title, "it holds no Stable Diffusion UNet in the checkpoint layout")
    in_channels = tensors[CONV_IN].shape[1]
    kind = {9: "inpainting", 8: "instruct-pix2pix"}.get(in_channels)
    title, family = _by_text_encoder(tensors)
    if kind is not None:
        return Detection(
            None,
            f"{title}, {kind}",
            f"its UNet takes {in_channels} channels instead of 4; choose the ordinary checkpoint",
        )
    if in_channels != 4:
        return Detection(None, title, f"its UNet takes {in_channels} channels instead of 4")
    if family is None:
        return Detection(None, title, "this family is not supported")
    return Detection(family, title)


def _by_text_encoder(tensors: Tensors) -> tuple[str, Family | None]:
    if _SDXL_TEXT_2 in tensors:
        small = _MIDDLE_ATTENTION not in tensors
        return ("SSD-1B" if small else "Stable Diffusion XL"), None
    if _SDXL_REFINER_TEXT in tensors:
        return "the Stable Diffusion XL refiner", None
    if _OPENCLIP in tensors:
        return "Stable Diffusion 2", None
    if _SD1_TEXT in tensors or _SD1_TEXT_OLD in tensors:
        return SD1.title, SD1
    if _LABELS in tensors:
        return "a Stable Diffusion XL UNet without its text encoders", None
    return "a UNet without a text encoder", None


def _not_a_checkpoint(tensors: Tensors) -> str:
    names = list(tensors)
    if any(name.startswith(("lora_", "lycoris_")) or ".lora_" in name for name in names):
        return "a LoRA file"
    if any("double_blocks." in name for name in names):
        return "a Flux checkpoint"
    if any("joint_blocks." in name for name in names):
        return "a Stable Diffusion 3 checkpoint"
    if any(name.startswith(("down_blocks.", "unet.")) for name in names):
        return "a file in the diffusers layout"
    if any(name.endswith("decoder.conv_in.weight") for name in names):
        return "a VAE file"
    if len(names) <= 4:
        return "an embedding or another small file"
    return "a file of an unknown architecture"
