"""Writing assembled modules back as one checkpoint in the ldm layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel

from .families import Family
from .ldm_names import FUSED, UNET_PREFIX, VAE_PREFIX, openclip_name, unet_name, vae_name


def ldm_tensors(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoders: Sequence[CLIPTextModel],
    family: Family,
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    """The modules' weights under the names of a checkpoint file, on the CPU in `dtype`.

    Args:
        text_encoders: in the family's order, with the layers that it does not use.
    """
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
    for row, encoder in zip(family.text_encoders, text_encoders, strict=True):
        own = encoder.named_parameters() if row.layout == "clip" else _openclip(encoder)
        named.update((row.prefix + name, parameter) for name, parameter in own)
    return {
        name: tensor.detach().to("cpu", dtype, copy=True).contiguous()
        for name, tensor in named.items()
    }


def _openclip(encoder: CLIPTextModel) -> Iterator[tuple[str, torch.Tensor]]:
    """The encoder's weights in OpenCLIP's layout; what is fused there, put together."""
    thirds: dict[str, list[torch.Tensor]] = {}
    for name, parameter in encoder.named_parameters():
        theirs, third = openclip_name(name)
        if third is not None:
            thirds.setdefault(theirs, [parameter] * len(FUSED))[third] = parameter
        else:
            yield theirs, parameter.T if name == "text_projection.weight" else parameter
    for theirs, parts in thirds.items():
        yield theirs, torch.cat(parts)


def write_checkpoint(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes a `.safetensors` checkpoint; its folder must exist."""
    save_file(tensors, path, metadata={"format": "pt"})
