"""Which family a checkpoint belongs to, told from its tensors alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from .families import CONV_IN, SD1, SD2, SDXL, Family
from .ldm_names import UNET_PREFIX

Tensors = Mapping[str, torch.Tensor]

_OPENCLIP = "cond_stage_model.model.transformer.resblocks.0.ln_1.weight"
_SD1_TEXT = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
_SD1_TEXT_OLD = "cond_stage_model.transformer.embeddings.token_embedding.weight"
_SDXL_TEXT_2 = "conditioner.embedders.1.model.ln_final.weight"
_SDXL_REFINER_TEXT = "conditioner.embedders.0.model.ln_final.weight"
_LABELS = UNET_PREFIX + "label_emb.0.0.weight"
_EDM = ("edm_mean", "edm_vpred.sigma_max")
"""Tensors that mark models of another noise schedule."""
_MIDDLE_ATTENTION = UNET_PREFIX + "middle_block.1.proj_in.weight"

_REFINER = "it only finishes pictures that the base model began; train on the base"
_SMALLER = "parts of its UNet were taken out, and readers find no place for its LoRAs"
_OTHER_NOISE = "it was trained with another kind of noise schedule (EDM)"
_NO_TEXT = "the text encoders are missing; choose a whole checkpoint"


@dataclass(frozen=True)
class Detection:
    """What a file is.

    Attributes:
        family: the family when Trainyard can train on it, else None.
        title: what the file is, in words: "Stable Diffusion XL", "a LoRA file".
        reason: why it cannot be trained on; empty when it can.
        unet_weights: how many numbers its UNet holds; 0 where nobody has counted.
    """

    family: Family | None
    title: str
    reason: str = ""
    unet_weights: int = 0


def detect(tensors: Tensors) -> Detection:
    """Looks at names and shapes only; never fails."""
    if CONV_IN not in tensors:
        title = _not_a_checkpoint(tensors)
        return Detection(None, title, "it holds no Stable Diffusion UNet in the checkpoint layout")
    shape = tensors[CONV_IN].shape
    in_channels = shape[1] if len(shape) > 1 else 0
    kind = {9: "inpainting", 8: "instruct-pix2pix"}.get(in_channels)
    found = _by_text_encoder(tensors)
    if in_channels != 4:
        reason = f"its UNet takes {in_channels} channels instead of 4"
        if kind is not None:
            reason += "; train on the ordinary checkpoint, whose LoRAs work on this one too"
        return Detection(None, f"{found.title}, {kind}" if kind else found.title, reason)
    weights = sum(t.numel() for name, t in tensors.items() if name.startswith(UNET_PREFIX))
    return replace(found, unet_weights=weights)


def _by_text_encoder(tensors: Tensors) -> Detection:
    """What an ordinary checkpoint is."""
    if _SDXL_TEXT_2 in tensors:
        if _MIDDLE_ATTENTION not in tensors:
            return Detection(None, "SSD-1B or a relative", _SMALLER)
        if any(mark in tensors for mark in _EDM):
            return Detection(None, "Playground 2.5 or a relative", _OTHER_NOISE)
        return Detection(SDXL, SDXL.title)
    if _SDXL_REFINER_TEXT in tensors:
        return Detection(None, "the Stable Diffusion XL refiner", _REFINER)
    if _OPENCLIP in tensors:
        return Detection(SD2, SD2.title)
    if _SD1_TEXT in tensors or _SD1_TEXT_OLD in tensors:
        return Detection(SD1, SD1.title)
    if _LABELS in tensors:
        return Detection(None, "a Stable Diffusion XL UNet without its text encoders", _NO_TEXT)
    return Detection(None, "a UNet without a text encoder", _NO_TEXT)


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
