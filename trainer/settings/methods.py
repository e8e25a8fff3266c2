"""The training methods: what each is called, and which groups of parameters it uses."""

from __future__ import annotations

from dataclasses import dataclass

from .groups import (
    DataSettings,
    LossSettings,
    ModelSettings,
    NetworkSettings,
    OptimizerSettings,
    OutputSettings,
    TrainingSettings,
)


@dataclass(frozen=True)
class MethodInfo:
    """One training method as users see it."""

    title: str
    sentence: str
    """What it does, in one sentence for someone who has never trained anything."""
    groups: tuple[type, ...]
    aliases: tuple[str, ...] = ()
    """Its names in other tools' files."""


METHODS: dict[str, MethodInfo] = {
    "lora": MethodInfo(
        title="LoRA",
        sentence="Learns a person, an object or a style from a folder of pictures.",
        groups=(
            ModelSettings,
            DataSettings,
            NetworkSettings,
            TrainingSettings,
            OptimizerSettings,
            LossSettings,
            OutputSettings,
        ),
        aliases=("LoRA",),
    ),
}
