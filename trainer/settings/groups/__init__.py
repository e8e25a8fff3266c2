"""The parameters, in groups; a method names the groups that it uses.

Parameter names are unique over all groups, so that a job is one flat JSON object.
"""

from __future__ import annotations

from .data import DataSettings
from .model import ModelSettings
from .network import BLOCKS, NetworkSettings
from .optimizer import OptimizerSettings
from .output import OutputSettings
from .training import LossSettings, TrainingSettings

__all__ = [
    "BLOCKS",
    "GROUPS",
    "DataSettings",
    "LossSettings",
    "ModelSettings",
    "NetworkSettings",
    "OptimizerSettings",
    "OutputSettings",
    "TrainingSettings",
]

GROUPS: dict[str, type] = {
    "model": ModelSettings,
    "data": DataSettings,
    "network": NetworkSettings,
    "training": TrainingSettings,
    "optimizer": OptimizerSettings,
    "loss": LossSettings,
    "output": OutputSettings,
}
"""In the order in which a person thinks of them."""
