"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import BadInput, Problem
from ..settings.groups import OptimizerSettings
from ..settings.values import parse_arguments
from .arguments import check_arguments


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate."""

    name: str
    """"unet" or "text_encoder"; what the log calls the group."""
    parameters: tuple[torch.nn.Parameter, ...]
    learning_rate: float


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "AdamW": torch.optim.AdamW,
}

_OWN_ARGUMENTS = ("params", "lr", "fused", "foreach", "maximize", "capturable", "differentiable")


def check_optimizer(settings: OptimizerSettings) -> None:
    """Checks the optimizer's arguments without making one.

    Raises:
        BadInput: an argument is not the optimizer's.
    """
    arguments = parse_arguments(settings.optimizer_args)
    check_arguments("optimizer_args", OPTIMIZERS[settings.optimizer], arguments, _OWN_ARGUMENTS)


def new_optimizer(
    settings: OptimizerSettings, groups: Sequence[ParameterGroup]
) -> torch.optim.Optimizer:
    """The chosen optimizer over `groups`, in its fused form where torch has one.

    Raises:
        BadInput: an argument is not the optimizer's, or it refuses a value.
    """
    check_optimizer(settings)
    arguments = parse_arguments(settings.optimizer_args)
    make = OPTIMIZERS[settings.optimizer]
    rows = [
        {"params": list(group.parameters), "lr": group.learning_rate, "name": group.name}
        for group in groups
    ]
    try:
        return _fused_if_possible(make, rows, arguments)
    except (TypeError, ValueError) as error:
        raise BadInput(
            [
                Problem(
                    "optimizer_args",
                    f"{settings.optimizer} refuses them: {error}",
                    "correct or remove the argument",
                )
            ]
        ) from error


def _fused_if_possible(
    make: Callable[..., torch.optim.Optimizer], rows: list[dict[str, Any]], arguments: Any
) -> torch.optim.Optimizer:
    try:
        return make(rows, fused=True, **arguments)
    except RuntimeError:  # this torch has no fused form for the parameters' device
        return make(rows, **arguments)
