"""Which modules of a model get an adapter, and under which name it is saved."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from ..errors import BadInput, Problem
from ..settings.groups.network import BLOCKS
from .naming import (
    BASE,
    LDM_STYLE_FAMILIES,
    TEXT_ENCODER_PREFIXES,
    UNET_PREFIX,
    block_of,
    group_name,
    ldm_unet_path,
)

Layer = nn.Linear | nn.Conv2d
"""A layer that an adapter can be added to."""

TRANSFORMERS = ("Transformer2DModel",)
CONVOLUTIONAL = ("ResnetBlock2D", "Downsample2D", "Upsample2D")
TEXT_ENCODER_PARTS = ("CLIPAttention", "CLIPMLP")

FULL = "Full"
ELEMENTS: dict[str, tuple[str, ...]] = {
    "CrossAttention": (".attn2.",),
    "CrossAttentionKV": (".attn2.to_k", ".attn2.to_v"),
    "SelfAttention": (".attn1.",),
}
"""Parts of a module's path, one of which each element other than Full asks for."""


@dataclass(frozen=True)
class Target:
    """One layer that gets an adapter."""

    name: str
    """Its group name in the file that is written, such as `lora_unet_..._attn1_to_q`."""
    module: Layer
    block: str
    """BASE (a text encoder), IN00 to IN11, M00, OUT00 to OUT11."""
    aliases: tuple[str, ...] = ()
    """Other names under which files may hold it."""


def find_targets(
    unet: nn.Module,
    text_encoders: Sequence[nn.Module],
    *,
    family: str,
    blocks: Collection[str],
    element: str = FULL,
    convolutions: bool = False,
) -> list[Target]:
    """Choose the layers to train.

    Inside the UNet these are the Linears and 1x1 convolutions of every Transformer2DModel and,
    with `convolutions`, everything inside ResnetBlock2D, Downsample2D and Upsample2D; inside a
    text encoder the Linears of attention and MLP.  Parameters may be on the meta device.

    Args:
        unet: diffusers' UNet2DConditionModel.
        text_encoders: transformers' CLIP text encoders in the family's order; empty where they
            are not to be trained.
        family: sd1, sd2 or sdxl; decides how modules are named in the file.
        blocks: the chosen ones of the 26 block names; the text encoders are BASE.
        element: Full, or a name of `ELEMENTS` for only those layers of the UNet.
        convolutions: whether the network also trains convolutional blocks (Full only).

    Raises:
        BadInput: the choice holds no layer at all.
        ValueError: the family has another number of text encoders.
    """
    targets: list[Target] = []
    if BASE in blocks and text_encoders:
        targets += _text_encoder_targets(text_encoders, family)
    targets += _unet_targets(unet, family, blocks, element, convolutions)
    if not targets:
        what = f"the chosen blocks ({', '.join(blocks) or 'none'}) hold no layer for {element}"
        cure = "choose blocks with attention (for example IN01, IN02, M00, OUT03), or element Full"
        raise BadInput([Problem("blocks", what, cure)])
    return targets


def every_target(unet: nn.Module, text_encoders: Sequence[nn.Module], family: str) -> list[Target]:
    """Every layer that any file may hold."""
    return find_targets(unet, text_encoders, family=family, blocks=BLOCKS, convolutions=True)


def _text_encoder_targets(text_encoders: Sequence[nn.Module], family: str) -> Iterator[Target]:
    for prefix, encoder in zip(TEXT_ENCODER_PREFIXES[family], text_encoders, strict=True):
        for path, layer in _layers_inside(encoder, TEXT_ENCODER_PARTS):
            yield Target(group_name(prefix, path), layer, BASE)


def _unet_targets(
    unet: nn.Module, family: str, blocks: Collection[str], element: str, convolutions: bool
) -> Iterator[Target]:
    containers = TRANSFORMERS + (CONVOLUTIONAL if convolutions else ())
    levels = _attention_levels(unet)
    for path, layer in _layers_inside(unet, containers):
        block = block_of(path)
        if block is None or block not in blocks:
            continue
        if element != FULL and not any(part in path for part in ELEMENTS[element]):
            continue
        diffusers_name = group_name(UNET_PREFIX, path)
        ldm_name = group_name(UNET_PREFIX, ldm_unet_path(path, levels))
        if family in LDM_STYLE_FAMILIES:
            yield Target(ldm_name, layer, block, aliases=(diffusers_name,))
        else:
            yield Target(diffusers_name, layer, block, aliases=(ldm_name,))


def _layers_inside(root: nn.Module, containers: Collection[str]) -> Iterator[tuple[str, Layer]]:
    """Paths and layers below every module whose class, or a base of it, has one of these names.

    By name, so that neither diffusers nor transformers has to be imported to look.
    """
    for outer_path, outer in root.named_modules():
        if {base.__name__ for base in type(outer).__mro__}.isdisjoint(containers):
            continue
        for path, module in outer.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                yield f"{outer_path}.{path}", module


def _attention_levels(unet: nn.Module) -> list[bool]:
    """For each up block, whether it holds attentions."""
    return [hasattr(block, "attentions") for block in unet.get_submodule("up_blocks").children()]
