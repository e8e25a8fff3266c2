"""Assembling diffusers' and transformers' modules around tensors that exist already.

The modules are built on the meta device and their parameters set to the given tensors, or to
views of them: nothing is copied, nothing is downloaded, and the width of every layer is read off
the tensors, so that a tiny checkpoint takes the same path as a full-size one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from ..errors import BadInput, Problem
from .families import SIZE_EMBEDDING_WIDTH, Family, TextEncoderRow
from .ldm_names import (
    FUSED,
    OPENCLIP_LAYERS,
    UNET_PREFIX,
    VAE_PREFIX,
    openclip_name,
    unet_name,
    vae_name,
)

Tensors = Mapping[str, torch.Tensor]
Module = TypeVar("Module", bound=nn.Module)
CLIP_HEAD_WIDTH = 64
MOST_LAYERS = 500
"""Of one kind; the largest known model has 48."""
CLIP_LAYERS = r"(?:text_model\.)?encoder\.layers\."


@contextmanager
def _understood(part: str) -> Iterator[None]:
    """Turns what a nonsensical shape breaks on its way into a message about the file.

    Raises:
        BadInput: when the block raised what such shapes raise.
    """
    try:
        yield
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        what = f"{part} has shapes that no model has ({str(error).partition(chr(10))[0][:120]})"
        cure = "the file is damaged or of another architecture"
        raise BadInput([Problem("checkpoint", what, cure)]) from error


@_understood("the UNet")
def assemble_unet(tensors: Tensors, family: Family) -> UNet2DConditionModel:
    """diffusers' UNet over the tensors under `UNET_PREFIX`, frozen, in evaluation mode.

    Raises:
        BadInput: when tensors are missing or of another shape than the layout demands.
    """
    own = _below(tensors, UNET_PREFIX)
    config = unet_config(own, family)
    attention = [kind.startswith("CrossAttn") for kind in config["up_block_types"]]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    return _fill(unet, lambda name: _find(own, unet_name(name, attention), "the UNet"))


@_understood("the VAE")
def assemble_vae(tensors: Tensors, family: Family) -> AutoencoderKL:
    """diffusers' autoencoder over the tensors under `VAE_PREFIX`, or of a bare VAE file.

    Raises:
        BadInput: when tensors are missing or of another shape than the layout demands.
    """
    bare = "encoder.conv_in.weight" in tensors
    own = tensors if bare else _below(tensors, VAE_PREFIX)
    config = vae_config(own, family)
    levels = len(config["block_out_channels"])
    with torch.device("meta"):
        vae = AutoencoderKL(**config)

    def tensor(name: str) -> torch.Tensor:
        found = _find(own, vae_name(name, levels), "the VAE")
        # ldm keeps the attention's projections as 1x1 convolutions.
        return found[:, :, 0, 0] if ".attentions." in name and found.ndim == 4 else found

    return _fill(vae, tensor)


@_understood("the text encoder")
def assemble_text_encoder(tensors: Tensors, row: TextEncoderRow) -> CLIPTextModel:
    """transformers' CLIP text model over a checkpoint's tensors, frozen.

    The tensors have transformers' names, or OpenCLIP's: then the three projections that lie in
    one tensor become views of it.

    Returns:
        A CLIPTextModelWithProjection where the row asks for the pooled output.

    Raises:
        BadInput: when tensors are missing or of another shape than the layout demands.
    """
    own = _below(tensors, row.prefix)
    config = clip_config(own, row)
    find = _finder(own)
    with torch.device("meta"):
        encoder = (CLIPTextModelWithProjection if row.pooled else CLIPTextModel)(config)
    _fill(encoder, lambda name: find(own, name))
    embeddings = encoder.text_model.embeddings
    positions, device = embeddings.position_embedding.weight, encoder.device
    embeddings.position_ids = torch.arange(len(positions), device=device)[None]
    return encoder


def _finder(own: Tensors) -> Callable[[Tensors, str], torch.Tensor]:
    """How a text encoder's tensors are found, by transformers' names."""
    return _openclip if any(name.startswith(OPENCLIP_LAYERS) for name in own) else _clip


def _clip(own: Tensors, name: str) -> torch.Tensor:
    """A text encoder's tensor under transformers' name for it."""
    if "text_model.final_layer_norm.weight" not in own:  # files older than transformers 4.x
        name = name.removeprefix("text_model.")
    return _find(own, name, "the text encoder")


def _openclip(own: Tensors, name: str) -> torch.Tensor:
    """The same of an encoder in OpenCLIP's layout: the tensor itself, or a view of it."""
    theirs, third = openclip_name(name)
    found = _find(own, theirs, "the text encoder")
    if third is not None:
        return found.chunk(len(FUSED))[third]
    return found.T if name == "text_projection.weight" else found


def unet_config(own: Tensors, family: Family) -> dict[str, Any]:
    """The arguments of UNet2DConditionModel, read off ldm-named tensors (without prefix)."""
    widths: list[int] = []
    depths: list[int] = []
    resnets = 0
    index = 1
    while True:
        block = f"input_blocks.{index}."
        if block + "0.in_layers.2.weight" in own:
            width = own[block + "0.in_layers.2.weight"].shape[0]
            if resnets == 0:
                widths.append(width)
                depths.append(_count(own, block + r"1\.transformer_blocks\.(\d+)\."))
            resnets += 1
            layers = resnets
        elif block + "0.op.weight" in own:
            resnets = 0
        else:
            break
        index += 1
    if not widths:
        raise _damaged("the UNet", "input_blocks.1.0.in_layers.2.weight")
    attention = [depth > 0 for depth in depths]
    context = _find(own, _first_cross_attention(attention), "the UNet").shape[1]
    projection = _find(own, "middle_block.1.proj_in.weight", "the UNet")
    heads: int | list[int] = family.attention_heads or [
        max(1, width // CLIP_HEAD_WIDTH) for width in widths
    ]
    return {
        "in_channels": own["input_blocks.0.0.weight"].shape[1],
        "out_channels": _find(own, "out.2.weight", "the UNet").shape[0],
        "block_out_channels": tuple(widths),
        "layers_per_block": layers,
        "down_block_types": tuple(
            "CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention
        ),
        "up_block_types": tuple(
            "CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)
        ),
        "transformer_layers_per_block": [max(depth, 1) for depth in depths],
        "attention_head_dim": heads,  # the number of heads, in spite of its name
        "cross_attention_dim": context,
        "use_linear_projection": projection.ndim == 2,
        **_size_config(own),
    }


def _size_config(own: Tensors) -> dict[str, Any]:
    """Arguments of a UNet that is also told the pooled text and six sizes."""
    if "label_emb.0.0.weight" not in own:
        return {}
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SIZE_EMBEDDING_WIDTH,
        "projection_class_embeddings_input_dim": own["label_emb.0.0.weight"].shape[1],
    }


def vae_config(own: Tensors, family: Family) -> dict[str, Any]:
    """The arguments of AutoencoderKL, read off ldm-named tensors (without prefix)."""
    levels = _count(own, r"encoder\.down\.(\d+)\.")
    if levels == 0:
        raise _damaged("the VAE", "encoder.down.0.block.0.conv1.weight")
    widths = tuple(
        _find(own, f"encoder.down.{i}.block.0.conv1.weight", "the VAE").shape[0]
        for i in range(levels)
    )
    return {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": _count(own, r"encoder\.down\.0\.block\.(\d+)\."),
        "latent_channels": _find(own, "post_quant_conv.weight", "the VAE").shape[0],
        "scaling_factor": family.latent_scale,
    }


def clip_config(own: Tensors, row: TextEncoderRow) -> CLIPTextConfig:
    """CLIP's text configuration, read off tensors in transformers' or OpenCLIP's names."""
    find = _finder(own)
    vocabulary, width = find(own, "text_model.embeddings.token_embedding.weight").shape
    positions = find(own, "text_model.embeddings.position_embedding.weight")
    inner = find(own, "text_model.encoder.layers.0.mlp.fc1.weight")
    layer = re.escape(OPENCLIP_LAYERS) if find is _openclip else CLIP_LAYERS
    projection = find(own, "text_projection.weight") if row.pooled else inner.new_empty(width, 0)
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner.shape[0],
        num_hidden_layers=_count(own, layer + r"(\d+)\.") - row.last_layers_unused,
        num_attention_heads=max(1, width // CLIP_HEAD_WIDTH),
        max_position_embeddings=positions.shape[0],
        hidden_act=row.activation,
        projection_dim=projection.shape[0],
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )


def _fill(module: Module, tensor: Callable[[str], torch.Tensor]) -> Module:
    for name, parameter in list(module.named_parameters()):
        found = tensor(name).detach()
        if found.shape != parameter.shape:
            raise BadInput(
                [
                    Problem(
                        "checkpoint",
                        f"its tensor for {name} has the shape {tuple(found.shape)} instead of"
                        f" {tuple(parameter.shape)}",
                        "the file is damaged or of another architecture",
                    )
                ]
            )
        owner, _, leaf = name.rpartition(".")
        module.get_submodule(owner)._parameters[leaf] = nn.Parameter(found, requires_grad=False)
    return module.eval()


def _below(tensors: Tensors, prefix: str) -> dict[str, torch.Tensor]:
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}


def _count(own: Tensors, pattern: str) -> int:
    """One more than the highest number that the pattern's group takes in a tensor's name."""
    matches = (re.match(pattern, name) for name in own)
    highest = max((int(match[1]) for match in matches if match is not None), default=-1)
    if highest > MOST_LAYERS:
        what = f"has more than {MOST_LAYERS} layers or blocks of a kind"
        cure = "the file is damaged, or made to keep this program busy"
        raise BadInput([Problem("checkpoint", what, cure)])
    return highest + 1


def _first_cross_attention(attention: list[bool]) -> str:
    block = 1 + 3 * attention.index(True) if True in attention else 1
    return f"input_blocks.{block}.1.transformer_blocks.0.attn2.to_k.weight"


def _find(own: Tensors, name: str, part: str) -> torch.Tensor:
    if name not in own:
        raise _damaged(part, name)
    return own[name]


def _damaged(part: str, name: str) -> BadInput:
    return BadInput(
        [
            Problem(
                "checkpoint",
                f"{part} lacks the tensor {name}",
                "the file is damaged or of another architecture",
            )
        ]
    )
