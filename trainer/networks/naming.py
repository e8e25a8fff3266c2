"""Names of modules and blocks: diffusers' module paths, ldm's, and the keys of kohya files.

A UNet module has two names in circulation.  `down_blocks.1.attentions.0.proj_in` is diffusers'
path; the original (ldm) modules call the same layer `input_blocks.4.1.proj_in`.  kohya files use
the first for SD1 and SD2 and the second for SDXL, with the dots turned into underscores.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..models.ldm_names import unet_name

UNET_PREFIX = "lora_unet"
TEXT_ENCODER_PREFIXES: dict[str, tuple[str, ...]] = {
    "sd1": ("lora_te",),
    "sd2": ("lora_te",),
    "sdxl": ("lora_te1", "lora_te2"),
}
"""One prefix for each text encoder, in the family's order (SDXL: CLIP-L, then OpenCLIP bigG)."""
LDM_STYLE_FAMILIES = ("sdxl",)
"""Families whose files name UNet modules as ldm does; A1111 misreads the other style there."""

BASE = "BASE"
"""The block of the text encoders; the others (IN, M, OUT) are ldm's blocks of the UNet."""
BLOCKS_A_LEVEL = 3
"""ldm blocks in each level of the UNet: two resnets and a downsampler, or three resnets."""

_BLOCK_PATTERNS: tuple[tuple[str, str, int], ...] = (
    (r"down_blocks[._](\d+)[._](?:resnets|attentions)[._](\d+)[._]", "IN", 1),
    (r"down_blocks[._](\d+)[._]downsamplers[._]", "IN", 3),
    (r"up_blocks[._](\d+)[._](?:resnets|attentions)[._](\d+)[._]", "OUT", 0),
    (r"up_blocks[._](\d+)[._]upsamplers[._]", "OUT", 2),
)


def ldm_unet_path(path: str, attention_levels: Sequence[bool]) -> str:
    """Rename a module inside a UNet's blocks from diffusers' path to ldm's.

    Args:
        path: diffusers' path, such as `down_blocks.1.attentions.0.proj_in`.
        attention_levels: for each up block, whether it holds attentions.

    Returns:
        The ldm path, such as `input_blocks.4.1.proj_in`.

    Raises:
        KeyError: the path has no place in the ldm layout.
    """
    # The table speaks of tensors: a layer's path ends where its weight's name begins.
    return unet_name(f"{path}.weight", attention_levels).removesuffix(".weight")


def group_name(prefix: str, path: str) -> str:
    """The name of a module's tensors in a kohya file: everything before their first dot."""
    return f"{prefix}_{path.replace('.', '_')}"


def block_of(name: str) -> str | None:
    """Which of the 26 blocks a module belongs to.

    Args:
        name: a diffusers or ldm path inside the UNet, or a group name of a kohya file.

    Returns:
        BASE for a text encoder's module, IN.., M00 or OUT.. for one inside a UNet block, None
        for what lies in no block (such as the time embedding).
    """
    if name.startswith("lora_te"):
        return BASE
    inside = name.removeprefix(f"{UNET_PREFIX}_")
    if re.match(r"(mid_block|middle_block)[._]", inside):
        return "M00"
    if found := re.match(r"(input|output)_blocks[._](\d+)[._]", inside):
        return f"{'IN' if found[1] == 'input' else 'OUT'}{int(found[2]):02d}"
    for pattern, side, first in _BLOCK_PATTERNS:
        if found := re.match(pattern, inside):
            level, *index = (int(number) for number in found.groups())
            return f"{side}{first + BLOCKS_A_LEVEL * level + sum(index):02d}"
    return None
