"""Optimizers by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from ..errors import BadInput, Problem
from ..settings.groups import OptimizerSettings
from ..settings.values import parse_arguments
from .arguments import REFUSALS, check_arguments


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
    device = groups[0].parameters[0].device.type
    fused = {"fused": True} if fused_works(make, device) else {}
    try:
        return make(rows, **fused, **arguments)
    except REFUSALS as error:
        raise BadInput(
            [
                Problem(
                    "optimizer_args",
                    f"{settings.optimizer} refuses them: {error}",
                    "correct or remove the argument",
                )
            ]
        ) from error


@cache
def fused_works(make: Callable[..., torch.optim.Optimizer], device: str) -> bool:
    """Whether an optimizer has a fused form there: torch 2.1 fails at the first step only."""
    probe = torch.zeros(1, device=device, requires_grad=True)
    probe.grad = torch.zeros_like(probe)
    try:
        make([probe], fused=True).step()
    except (RuntimeError, TypeError):
        return False
    return True
