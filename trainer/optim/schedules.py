"""Learning rate schedules by name."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.optimization import TYPE_TO_SCHEDULER_FUNCTION, SchedulerType

from ..errors import BadInput, Problem
from ..settings.groups import OptimizerSettings
from ..settings.values import parse_arguments
from .arguments import REFUSALS, check_arguments

_OWN_ARGUMENTS = (
    "optimizer",
    "num_warmup_steps",
    "num_training_steps",
    "num_cycles",
    "power",
    "step_rules",
    "last_epoch",
)


def check_schedule(settings: OptimizerSettings) -> None:
    """Checks what can be known of a schedule before an optimizer exists.

    Raises:
        BadInput: a setting is missing, or an argument is not the schedule's.
    """
    name = _effective_name(settings)
    arguments = parse_arguments(settings.lr_scheduler_args)
    check_arguments("lr_scheduler_args", _function(name), arguments, _OWN_ARGUMENTS)
    if name == "piecewise_constant" and not settings.lr_step_rules:
        raise BadInput(
            [
                Problem(
                    "lr_step_rules",
                    "is empty, and lr_scheduler is piecewise_constant",
                    "write for example 1:100,0.1:400,0.01",
                )
            ]
        )


def new_schedule(
    settings: OptimizerSettings, optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The schedule over exactly `steps` optimizer steps.

    Raises:
        BadInput: as `check_schedule`.
    """
    check_schedule(settings)
    name = _effective_name(settings)
    known: dict[str, Any] = {
        "num_warmup_steps": settings.lr_warmup_steps,
        "num_training_steps": steps,
        "step_rules": settings.lr_step_rules,
        "power": settings.lr_power,
    }
    if name == "cosine_with_restarts":
        known["num_cycles"] = settings.lr_cycles
    function = _function(name)
    accepted = function.__code__.co_varnames[: function.__code__.co_argcount]
    arguments = {key: value for key, value in known.items() if key in accepted}
    try:
        schedule: torch.optim.lr_scheduler.LRScheduler = function(
            optimizer, **arguments, **parse_arguments(settings.lr_scheduler_args)
        )
    except REFUSALS as error:
        where = "lr_step_rules" if settings.lr_step_rules else "lr_scheduler_args"
        what = f"{settings.lr_scheduler} refuses them: {error}"
        raise BadInput([Problem(where, what, "correct or empty them")]) from error
    return schedule


def _effective_name(settings: OptimizerSettings) -> str:
    """diffusers' "constant" knows no warm-up; with one, it is "constant_with_warmup"."""
    if settings.lr_scheduler == "constant" and settings.lr_warmup_steps:
        return "constant_with_warmup"
    return settings.lr_scheduler


def _function(name: str) -> Any:
    return TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(name)]
