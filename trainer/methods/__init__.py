"""The training methods, one file each."""

from __future__ import annotations

from collections.abc import Callable

from ..training.loop import Outcome
from ..training.session import Session
from . import addift, difference, ileco, lora

Method = Callable[[Session], Outcome]

TRAIN: dict[str, Method] = {
    "lora": lora.train,
    "ileco": ileco.train,
    "difference": difference.train,
    "addift": addift.train,
    "multi_addift": addift.train,  # the plan has found its pairs; the training is the same
}
"""What `settings.methods.METHODS` names, as code."""
