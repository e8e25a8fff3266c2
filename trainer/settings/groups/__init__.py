"""The parameters, in groups; a method names the groups that it uses.

Parameter names are unique over all groups, so that a job is one flat JSON object.  A group may
build on another: it then has that one's parameters too.
"""

from __future__ import annotations

from .cache import CacheSettings
from .captions import CaptionSettings, LengthSettings
from .concept import ConceptSettings, PromptSettings
from .data import DataSettings, PictureSettings, SizeSettings
from .labels import ConceptPoolSettings, PoolSettings
from .loss import LossSettings, NoiseSettings
from .model import ModelSettings
from .network import BLOCKS, NetworkSettings
from .optimizer import OptimizerSettings
from .output import OutputSettings
from .pairs import (
    CopierSettings,
    DirectionSettings,
    MaskSettings,
    MaskWeightSettings,
    PairSettings,
    PictureMaskSettings,
    SuffixSettings,
)
from .preserve import PreserveSettings, PriorSettings
from .samples import SampleSettings
from .training import TrainingSettings

__all__ = [
    "BLOCKS",
    "GROUPS",
    "CacheSettings",
    "CaptionSettings",
    "ConceptPoolSettings",
    "ConceptSettings",
    "CopierSettings",
    "DataSettings",
    "DirectionSettings",
    "LengthSettings",
    "LossSettings",
    "MaskSettings",
    "MaskWeightSettings",
    "ModelSettings",
    "NetworkSettings",
    "NoiseSettings",
    "OptimizerSettings",
    "OutputSettings",
    "PairSettings",
    "PictureMaskSettings",
    "PictureSettings",
    "PoolSettings",
    "PreserveSettings",
    "PriorSettings",
    "PromptSettings",
    "SampleSettings",
    "SizeSettings",
    "SuffixSettings",
    "TrainingSettings",
]

GROUPS: dict[str, type] = {
    "model": ModelSettings,
    "prompts": PromptSettings,
    "concept": ConceptSettings,
    "pair": PairSettings,
    "data": DataSettings,
    "suffix": SuffixSettings,
    "size": SizeSettings,
    "pictures": PictureSettings,
    "preserve": PreserveSettings,
    "prior": PriorSettings,
    "length": LengthSettings,
    "captions": CaptionSettings,
    "mask_weight": MaskWeightSettings,
    "picture_mask": PictureMaskSettings,
    "mask": MaskSettings,
    "copier": CopierSettings,
    "direction": DirectionSettings,
    "labels": PoolSettings,
    "concept_labels": ConceptPoolSettings,
    "network": NetworkSettings,
    "training": TrainingSettings,
    "optimizer": OptimizerSettings,
    "loss": LossSettings,
    "noise": NoiseSettings,
    "cache": CacheSettings,
    "output": OutputSettings,
    "samples": SampleSettings,
}
"""In the order in which a person thinks of them."""
