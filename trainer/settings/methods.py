"""The training methods: what each is called, and which groups of parameters it uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .groups import (
    CacheSettings,
    CaptionSettings,
    ConceptPoolSettings,
    ConceptSettings,
    CopierSettings,
    DataSettings,
    DirectionSettings,
    LossSettings,
    MaskSettings,
    ModelSettings,
    NetworkSettings,
    NoiseSettings,
    OptimizerSettings,
    OutputSettings,
    PairSettings,
    PictureMaskSettings,
    PictureSettings,
    PoolSettings,
    PriorSettings,
    PromptSettings,
    SampleSettings,
    SizeSettings,
    SuffixSettings,
    TrainingSettings,
)
from .values import Value

LEARNING = (NetworkSettings, TrainingSettings, OptimizerSettings, LossSettings)
"""What every method has, and what a second pass may have in its own way."""

RESULT = (OutputSettings, SampleSettings)
"""What every method writes."""


@dataclass(frozen=True)
class MethodInfo:
    """One training method as users see it."""

    title: str
    sentence: str
    """What it does, in one sentence for someone who has never trained anything."""
    groups: tuple[type, ...]
    aliases: tuple[str, ...] = ()
    """Its names in other tools' files."""
    defaults: Mapping[str, Value] = field(default_factory=dict)
    """Where this method's default is not the parameter's own."""
    second_pass: tuple[type, ...] = ()
    """Groups whose parameters may be set anew for a second pass; empty: it has none."""

    def uses(self, group: type) -> bool:
        """Whether the method has the group's parameters, itself or by a group that builds on it."""
        return any(issubclass(own, group) for own in self.groups)


METHODS: dict[str, MethodInfo] = {
    "lora": MethodInfo(
        title="LoRA",
        sentence="Learns a person, an object or a style from a folder of pictures.",
        groups=(
            ModelSettings,
            DataSettings,
            CaptionSettings,
            PictureMaskSettings,
            CacheSettings,
            PriorSettings,
            PoolSettings,
            NoiseSettings,
            *LEARNING,
            *RESULT,
        ),
        aliases=("LoRA",),
        defaults={"preserve_share": 0.33, "truncate_prompts": True},
    ),
    "ileco": MethodInfo(
        title="iLECO",
        sentence="Turns one prompt's concept into another's, or erases it; needs no picture.",
        groups=(
            ModelSettings,
            PromptSettings,
            ConceptSettings,
            SizeSettings,
            ConceptPoolSettings,
            *LEARNING,
            *RESULT,
        ),
        aliases=("iLECO", "LECO"),
        defaults={"rank": 4, "steps": 300, "learning_rate": 5e-4},
    ),
    "difference": MethodInfo(
        title="Difference",
        sentence="Learns what distinguishes two pictures that differ in one thing only.",
        groups=(
            ModelSettings,
            PromptSettings,
            PairSettings,
            PictureSettings,
            MaskSettings,
            CacheSettings,
            CopierSettings,
            NoiseSettings,
            *LEARNING,
            *RESULT,
        ),
        aliases=("Difference",),
        defaults={"alpha": 16.0, "steps": 500, "learning_rate": 5e-4},
        second_pass=LEARNING,
    ),
    "addift": MethodInfo(
        title="ADDifT",
        sentence="Learns the difference of two pictures directly, in a few steps.",
        groups=(
            ModelSettings,
            PromptSettings,
            PairSettings,
            PictureSettings,
            MaskSettings,
            CacheSettings,
            DirectionSettings,
            *LEARNING,
            *RESULT,
        ),
        aliases=("ADDifT",),
        defaults={"rank": 4, "alpha": 1.0, "steps": 50, "batch_size": 1},
    ),
    "multi_addift": MethodInfo(
        title="Multi-ADDifT",
        sentence="Learns what distinguishes many pairs of pictures in a folder.",
        groups=(
            ModelSettings,
            DataSettings,
            SuffixSettings,
            MaskSettings,
            CacheSettings,
            DirectionSettings,
            *LEARNING,
            *RESULT,
        ),
        aliases=("Multi-ADDifT",),
        defaults={"rank": 4, "alpha": 1.0, "steps": 100, "batch_size": 1},
    ),
}
