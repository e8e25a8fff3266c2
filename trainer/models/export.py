"""Writing assembled modules back as one checkpoint in the ldm layout."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel

from .families import Family
from .ldm_names import UNET_PREFIX, VAE_PREFIX, unet_name, vae_name


def ldm_tensors(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    family: Family,
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    """The modules' weights under the names of a checkpoint file, on the CPU in `dtype`."""
    attention = [kind.startswith("CrossAttn") for kind in unet.config.up_block_types]
    levels = len(vae.config.block_out_channels)
    named: dict[str, torch.Tensor] = {}
    for name, parameter in unet.named_parameters():
        named[UNET_PREFIX + unet_name(name, attention)] = parameter
    for name, parameter in vae.named_parameters():
        convolution = ".attentions." in name and parameter.ndim == 2
        named[VAE_PREFIX + vae_name(name, levels)] = (
            parameter[:, :, None, None] if convolution else parameter
        )
    for name, parameter in text_encoder.named_parameters():
        named[family.text_prefixes[0] + name] = parameter
    return {
        name: tensor.detach().to("cpu", dtype, copy=True).contiguous()
        for name, tensor in named.items()
    }


def write_checkpoint(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes a `.safetensors` checkpoint; its folder must exist."""
    save_file(tensors, path, metadata={"format": "pt"})
