"""Parameters of the frozen model's labels, which are computed once."""

from __future__ import annotations

from dataclasses import dataclass

from ..fields import parameter


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """The frozen model's answers, from which is learnt what a prompt means to it."""

    pool_size: int = parameter(
        256,
        minimum=1,
        maximum=1_000_000,
        help="How many noisy pictures the frozen model answers before the training, which then"
        " uses them again and again. More is steadier and costs more time before the first step.",
    )
    pool_denoise_steps: int = parameter(
        10,
        minimum=2,
        maximum=200,
        unit="steps",
        help="In how many steps such a picture is drawn; each step gives one answer. 10 to 20.",
        only_with=("pool_latents", "original", "target", "both"),
    )
    pool_guidance: float = parameter(
        3.0,
        minimum=1,
        maximum=30,
        help="Guidance (CFG) with which such a picture is drawn. 1 is without, and faster.",
        only_with=("pool_latents", "original", "target", "both"),
    )
    pool_order: str = parameter(
        "shuffled",
        choices=("shuffled", "random"),
        help="shuffled: every answer is used once before one is used again. random: each batch is"
        " drawn anew.",
    )


@dataclass(frozen=True, kw_only=True)
class ConceptPoolSettings(PoolSettings):
    """The answers from which a concept is changed."""

    pool_latents: str = parameter(
        "both",
        choices=("noise", "original", "target", "both"),
        help="What the noisy pictures are. original, target: pictures that the frozen model is"
        " drawing from that prompt; the original alone can fail wholly. both: half of each,"
        " which leaves the rest most surely alone. noise: nothing but noise, at every noise level,"
        " as TrainTrain does; a little quicker, and changes a little more beside the concept.",
    )
