"""The training methods, one file each."""

from __future__ import annotations

from collections.abc import Callable

from ..loop import Outcome
from ..session import Session
from . import lora

Method = Callable[[Session], Outcome]

TRAIN: dict[str, Method] = {
    "lora": lora.train,
}
"""What `settings.methods.METHODS` names, as code."""
