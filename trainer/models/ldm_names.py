"""Names of the ldm (Stable Diffusion checkpoint) layout for diffusers' modules.

Source: the ldm and diffusers module trees; the rules are those of diffusers' own conversion
scripts, written as one table of patterns per module.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."

_RESNET = (
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("time_emb_proj.", "emb_layers.1."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
    ("conv_shortcut.", "skip_connection."),
)
_UNET_TOP = (
    ("time_embedding.linear_1.", "time_embed.0."),
    ("time_embedding.linear_2.", "time_embed.2."),
    ("add_embedding.linear_1.", "label_emb.0.0."),
    ("add_embedding.linear_2.", "label_emb.0.2."),
    ("conv_in.", "input_blocks.0.0."),
    ("conv_norm_out.", "out.0."),
    ("conv_out.", "out.2."),
)
_VAE_ATTENTION = (
    ("group_norm.", "norm."),
    ("to_q.", "q."),
    ("to_k.", "k."),
    ("to_v.", "v."),
    ("to_out.0.", "proj_out."),
)

Rule = tuple[str, Callable[[Sequence[str]], str]]


def unet_name(name: str, attention_levels: Sequence[bool]) -> str:
    """The ldm name (without `UNET_PREFIX`) of a tensor of diffusers' UNet2DConditionModel.

    Args:
        name: e.g. "down_blocks.0.resnets.0.norm1.weight".
        attention_levels: for each up block, whether it holds attentions: an upsampler follows
            them in ldm's numbering.

    Raises:
        KeyError: for a name that has no place in the ldm layout.
    """
    for ours, theirs in _UNET_TOP:
        if name.startswith(ours):
            return theirs + name[len(ours) :]

    def up_sampler(m: Sequence[str]) -> str:
        block = int(m[1])
        return f"output_blocks.{3 * block + 2}.{2 if attention_levels[block] else 1}.conv."

    rules: tuple[Rule, ...] = (
        (
            r"down_blocks\.(\d+)\.resnets\.(\d+)\.",
            lambda m: f"input_blocks.{1 + 3 * int(m[1]) + int(m[2])}.0.",
        ),
        (
            r"down_blocks\.(\d+)\.attentions\.(\d+)\.",
            lambda m: f"input_blocks.{1 + 3 * int(m[1]) + int(m[2])}.1.",
        ),
        (
            r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.",
            lambda m: f"input_blocks.{3 + 3 * int(m[1])}.0.op.",
        ),
        (r"mid_block\.resnets\.(\d+)\.", lambda m: f"middle_block.{2 * int(m[1])}."),
        (r"mid_block\.attentions\.0\.", lambda m: "middle_block.1."),
        (
            r"up_blocks\.(\d+)\.resnets\.(\d+)\.",
            lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.0.",
        ),
        (
            r"up_blocks\.(\d+)\.attentions\.(\d+)\.",
            lambda m: f"output_blocks.{3 * int(m[1]) + int(m[2])}.1.",
        ),
        (r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.", up_sampler),
    )
    block, rest = _by_rules(name, rules)
    return block + (_renamed(rest, _RESNET) if ".resnets." in name else rest)


def vae_name(name: str, levels: int = 4) -> str:
    """The ldm name (without `VAE_PREFIX`) of a tensor of diffusers' AutoencoderKL.

    Raises:
        KeyError: for a name that has no place in the ldm layout.
    """
    if name.startswith(("quant_conv.", "post_quant_conv.")):
        return name
    side, rest = name.split(".", 1)
    rules: tuple[Rule, ...] = (
        (r"conv_in\.", lambda m: "conv_in."),
        (r"conv_out\.", lambda m: "conv_out."),
        (r"conv_norm_out\.", lambda m: "norm_out."),
        (r"mid_block\.resnets\.(\d+)\.", lambda m: f"mid.block_{int(m[1]) + 1}."),
        (r"mid_block\.attentions\.0\.", lambda m: "mid.attn_1."),
        (
            r"down_blocks\.(\d+)\.resnets\.(\d+)\.",
            lambda m: f"down.{m[1]}.block.{m[2]}.",
        ),
        (r"down_blocks\.(\d+)\.downsamplers\.0\.", lambda m: f"down.{m[1]}.downsample."),
        (
            r"up_blocks\.(\d+)\.resnets\.(\d+)\.",
            lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}.",
        ),
        (
            r"up_blocks\.(\d+)\.upsamplers\.0\.",
            lambda m: f"up.{levels - 1 - int(m[1])}.upsample.",
        ),
    )
    block, tail = _by_rules(rest, rules)
    if ".attentions." in name:
        tail = _renamed(tail, _VAE_ATTENTION)
    elif ".resnets." in name:
        tail = _renamed(tail, (("conv_shortcut.", "nin_shortcut."),))
    return f"{side}.{block}{tail}"


def _by_rules(name: str, rules: Sequence[Rule]) -> tuple[str, str]:
    for pattern, replacement in rules:
        match = re.match(pattern, name)
        if match is not None:
            return replacement(match), name[match.end() :]  # type: ignore[arg-type]
    raise KeyError(f"{name} has no place in the ldm layout")


def _renamed(rest: str, table: Sequence[tuple[str, str]]) -> str:
    for ours, theirs in table:
        if rest.startswith(ours):
            return theirs + rest[len(ours) :]
    return rest


_OPENCLIP_TOP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
_OPENCLIP_LAYER = (
    ("layer_norm1.", "ln_1."),
    ("layer_norm2.", "ln_2."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
    ("self_attn.out_proj.", "attn.out_proj."),
)
OPENCLIP_LAYERS = "transformer.resblocks."
"""The names of OpenCLIP's layers begin so."""
FUSED = ("q", "k", "v")
"""What OpenCLIP's input projection holds, in this order, one third of its rows each."""


def openclip_name(name: str) -> tuple[str, int | None]:
    """The OpenCLIP name of a tensor of transformers' CLIPTextModelWithProjection.

    Returns:
        The name, and which third of the tensor's rows is meant; None for all of it.

    Raises:
        KeyError: for a name that has no place in the OpenCLIP layout.
    """
    if name in _OPENCLIP_TOP:
        return _OPENCLIP_TOP[name], None
    match = re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)", name)
    if match is None:
        raise KeyError(f"{name} has no place in the OpenCLIP layout")
    layer, rest = f"{OPENCLIP_LAYERS}{match[1]}.", match[2]
    fused = re.fullmatch(r"self_attn\.([qkv])_proj\.(weight|bias)", rest)
    if fused is not None:
        return f"{layer}attn.in_proj_{fused[2]}", FUSED.index(fused[1])
    return layer + _renamed(rest, _OPENCLIP_LAYER), None
