"""Parameters of the network that is trained."""

from __future__ import annotations

from dataclasses import dataclass

from ..fields import parameter
from ..values import BadValueError

BLOCKS = (
    "BASE",
    *(f"IN{index:02}" for index in range(12)),
    "M00",
    *(f"OUT{index:02}" for index in range(12)),
)
"""The webui's 26 block names; BASE is the text encoder."""


def _some_block(blocks: tuple[str, ...]) -> None:
    if not blocks:
        raise BadValueError("no network block is chosen", "choose at least one, usually all 26")


def _some_strength(strength: float) -> None:
    if strength == 0:
        raise BadValueError(
            "0 saves a network without any effect", "use 1, or the strength you want"
        )


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """The network that learns: its kind, its size, and where it sits in the model."""

    network: str = parameter(
        "lierla",
        title="Network type",
        choices=("lierla",),
        help="Kind of network. lierla is the classic LoRA on the attention and feed-forward layers:"
        " small files that load everywhere.",
        aliases=("network_type", "network_module"),
    )
    rank: int = parameter(
        16,
        minimum=1,
        maximum=1024,
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
    element: str = parameter(
        "Full",
        choices=("Full", "CrossAttention", "SelfAttention"),
        help="Layers of each block that are trained. Full: attention and feed-forward, the usual"
        " choice. CrossAttention: only where text meets the picture. SelfAttention: only how the"
        " picture hangs together, for styles and compositions.",
        aliases=("network_element",),
    )
    network_precision: str = parameter(
        "fp32",
        choices=("fp32", "bf16", "fp16"),
        help="Precision of the network's weights while it is trained. fp32 is the safe choice and"
        " costs little, because the network is small.",
        aliases=("train_lora_precision",),
    )
    resume_from: str = parameter(
        "",
        help="A LoRA file whose training goes on from where it stands. It must have the same kind,"
        " rank and blocks. Empty: start anew.",
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
