"""Parameters of the network that is trained."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass

from ..fields import parameter
from ..values import BadValueError, read_float, shown

BLOCKS = (
    "BASE",
    *(f"IN{index:02}" for index in range(12)),
    "M00",
    *(f"OUT{index:02}" for index in range(12)),
)
"""The webui's 26 block names; BASE is the text encoder."""
CONVOLUTIONAL = ("c3lier", "loha_conv", "lokr_conv", "dora_conv")
"""The networks that train convolutions too."""
HIGHEST_RANK = 1024


def _some_block(blocks: tuple[str, ...]) -> None:
    if not blocks:
        raise BadValueError("no network block is chosen", "choose at least one, usually all 26")


def _some_factor(factor: int) -> None:
    if factor == 0:
        raise BadValueError("0 divides no layer", "use -1 for the most even split, or 4 to 16")


def _some_strength(strength: float) -> None:
    if strength == 0:
        raise BadValueError(
            "0 saves a network without any effect", "use 1, or the strength you want"
        )


def block_values(text: str) -> dict[str, float]:
    """Read what single blocks have of their own, such as "IN04=8, OUT*=32".

    Args:
        text: pairs of a block, or a pattern with * for several, and a number, separated by commas,
            semicolons or line breaks; of two that name the same block the later one holds.

    Returns:
        Block -> number.

    Raises:
        BadValueError: a pair cannot be read, or names no block.
    """
    values: dict[str, float] = {}
    for pair in filter(None, (piece.strip() for piece in re.split(r"[,;\n]", text))):
        pattern, equals, number = (part.strip() for part in pair.partition("="))
        blocks = fnmatch.filter(BLOCKS, pattern.upper())
        if not equals or not blocks:
            what = (
                f"{shown(pattern)} is no block" if equals else f"{shown(pair)} is not block=number"
            )
            raise BadValueError(what, "write for example IN04=8, OUT*=32 (blocks as in the webui)")
        values |= dict.fromkeys(blocks, read_float(number))
    return values


def _block_ranks(text: str) -> None:
    for block, rank in block_values(text).items():
        if not rank.is_integer() or not 1 <= rank <= HIGHEST_RANK:
            what = f"{rank:g} of {block} is no whole number from 1 to {HIGHEST_RANK}"
            raise BadValueError(what, "use for example 8; to leave a block out, see blocks")


def _block_alphas(text: str) -> None:
    for block, alpha in block_values(text).items():
        if not 0.001 <= alpha <= 4096:
            raise BadValueError(f"{alpha:g} of {block} is out of bounds", "use 0.001 to 4096")


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """The network that learns: its kind, its size, and where it sits in the model."""

    network: str = parameter(
        "lierla",
        title="Network type",
        choices=(
            *("lierla", "c3lier", "loha", "loha_conv"),
            *("lokr", "lokr_conv", "dora", "dora_conv"),
        ),
        help="Kind of network. lierla is the classic LoRA on the attention and feed-forward layers:"
        " small files that load everywhere. c3lier (LoCon) trains the convolutions too, which"
        " helps with styles and textures. loha holds more at a small rank (4 to 8); lokr makes very"
        " small files; dora learns nearer to a full training and takes about half as long again."
        " Those with _conv train the convolutions too. loha, lokr and dora need a recent webui;"
        " diffusers leaves the magnitudes of dora out.",
        aliases=("network_type", "network_module"),
    )
    rank: int = parameter(
        16,
        minimum=1,
        maximum=HIGHEST_RANK,
        help="Size of the network: how much it can learn. Higher holds more detail, makes a larger"
        " file and overfits sooner. 4 to 8 for a simple concept, 16 to 32 for a character, 32 to"
        " 128 for a style.",
        aliases=("network_rank", "network_dim", "dim"),
        section="how",
    )
    alpha: float = parameter(
        8.0,
        minimum=0.001,
        maximum=4096,
        help="The network's output is multiplied by alpha / rank, so alpha works like a volume of"
        " the learning rate. Usually half the rank, or equal to it; when you change the rank,"
        " change alpha in proportion.",
        aliases=("network_alpha",),
        section="how",
    )
    conv_rank: int | None = parameter(
        None,
        title="Convolution rank",
        minimum=1,
        maximum=HIGHEST_RANK,
        help="Rank of convolutions, for the network types that train them. Empty: the same as the"
        " rank. Usually a half or a quarter of it.",
        aliases=("network_conv_rank", "conv_dim"),
        only_with=("network", *CONVOLUTIONAL),
    )
    conv_alpha: float | None = parameter(
        None,
        title="Convolution alpha",
        minimum=0.001,
        maximum=4096,
        help="Alpha of convolutions, for the network types that train them. Empty: the same as"
        " alpha.",
        aliases=("network_conv_alpha",),
        only_with=("network", *CONVOLUTIONAL),
    )
    lokr_factor: int = parameter(
        -1,
        title="LoKr factor",
        minimum=-1,
        maximum=1024,
        help="For lokr: the largest side of its small matrix. -1 splits every layer as evenly as it"
        " divides, for the smallest file; 4 to 16 hold more.",
        aliases=("factor",),
        only_with=("network", "lokr", "lokr_conv"),
        check=_some_factor,
    )
    blocks: tuple[str, ...] = parameter(
        BLOCKS,
        choices=BLOCKS,
        help="Parts of the model that are trained. BASE is the text encoder; IN, M and OUT are the"
        " UNet from its entry to its exit; SDXL has those up to IN08 and OUT08. All is the usual"
        " choice. Without BASE only the UNet learns. The middle (SD1: IN07 to OUT04, SDXL: IN07 to"
        " OUT02) holds what is in the picture, the outer OUT blocks colours and texture.",
        check=_some_block,
        aliases=("network_blocks",),
    )
    block_ranks: str = parameter(
        "",
        check=_block_ranks,
        help="Blocks with a rank of their own, for example IN04=8, OUT*=32. Their alpha follows in"
        " proportion. Empty: the same rank everywhere.",
        aliases=("block_dims",),
    )
    block_alphas: str = parameter(
        "",
        check=_block_alphas,
        help="Blocks with an alpha of their own, for example M00=4. Empty: alpha in proportion to"
        " the block's rank.",
    )
    element: str = parameter(
        "Full",
        choices=("Full", "CrossAttention", "CrossAttentionKV", "SelfAttention"),
        help="Layers of each block that are trained. Full: attention and feed-forward, the usual"
        " choice. CrossAttention: only where text meets the picture. CrossAttentionKV: of these"
        " only keys and values, so that the network can only change what the prompt means: what"
        " one pair of pictures teaches then carries over to other pictures, whose shapes, places"
        " and colours stay. SelfAttention: only how the picture hangs together, for styles and"
        " compositions.",
        aliases=("network_element",),
    )
    network_precision: str = parameter(
        "fp32",
        choices=("fp32", "bf16", "fp16"),
        help="Precision of the network's weights while it is trained. fp32 is the safe choice and"
        " costs little, because the network is small. bf16 halves that, and rounds small changes"
        " away. fp16 keeps the weights in fp32, because changes are too small for it, and computes"
        " with them in fp16 where the model does.",
        aliases=("train_lora_precision",),
    )
    resume_from: str = parameter(
        "",
        help="A LoRA file, by its path or its name in the Lora folder, whose training goes on from"
        " where it stands. It must be of the same"
        " network type and hold only layers that are trained here. Its rank and alpha win over"
        " those set here; layers that it lacks start anew. Empty: start anew.",
        aliases=("network_resume", "network_weights"),
        picks="lora",
    )
    network_strength: float = parameter(
        1.0,
        minimum=-100,
        maximum=100,
        help="Factor that is worked into the saved file: with 2, the LoRA at strength 1 acts as it"
        " did at 2 in training. Usually 1.",
        check=_some_strength,
    )
    network_dropout: float = parameter(
        0.0,
        minimum=0,
        maximum=0.95,
        help="Part of the network's inner values that is left out of each step at random, against"
        " overfitting. 0 is usual; 0.1 to 0.5 for few pictures.",
        aliases=("dropout",),
    )
    rank_dropout: float = parameter(
        0.0,
        minimum=0,
        maximum=0.95,
        help="Part of the network's ranks that is left out of each step at random. 0 is usual; 0.1"
        " to 0.3 makes every rank useful by itself.",
    )
    module_dropout: float = parameter(
        0.0,
        minimum=0,
        maximum=0.95,
        help="Part of the layers that train without their network in each step, at random. 0 is"
        " usual; 0.1 to 0.3 against overfitting.",
    )
    scale_weight_norms: float = parameter(
        0.0,
        title="Largest weight norm",
        minimum=0,
        maximum=1000,
        help="After each step, a layer whose change has grown beyond this size is shrunk back to"
        " it, which keeps the network from burning and lets it mix with others. 0: no limit;"
        " 1 is usual.",
        aliases=("max_norm",),
    )
