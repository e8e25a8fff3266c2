"""A trial of what a user gave to an optimizer or schedule: often only a step tells."""

from __future__ import annotations

import warnings

import torch

from ..errors import BadInput, Problem
from ..settings.groups import OptimizerSettings
from .arguments import REFUSALS
from .kinds import KINDS
from .optimizers import ParameterGroup, begin, new_optimizer
from .schedules import Schedule

TRIAL_STEPS = 3


def try_out(settings: OptimizerSettings, steps: int) -> None:
    """Makes a few steps on a single weight, unless nothing was given that could be wrong.

    Args:
        steps: of the training that is meant.

    Raises:
        BadInput: optimizer or schedule refuse a value, or make NaN of the weight.
    """
    given = (settings.optimizer_args, settings.lr_scheduler_args, settings.lr_step_rules)
    if not any(given) or KINDS[settings.optimizer].only_cuda:
        return
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = new_optimizer(settings, [ParameterGroup("unet", (weight,), settings.learning_rate)])
    begin(optimizer)
    schedule = Schedule(settings, optimizer, steps)
    cure = "correct or remove the argument"
    for _ in range(min(steps, TRIAL_STEPS)):
        weight.grad = torch.ones_like(weight)
        try:
            optimizer.step()
        except REFUSALS as error:
            what = f"{settings.optimizer} fails at a step: {error}"
            raise BadInput([Problem("optimizer_args", what, cure)]) from error
        if not bool(torch.isfinite(weight).all()):
            what = f"make {settings.optimizer} give NaN or infinity"
            raise BadInput([Problem("optimizer_args", what, cure)])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                schedule.step(torch.ones(()))
        except REFUSALS as error:
            what = f"{settings.lr_scheduler} fails at a step: {error}"
            raise BadInput([Problem("lr_scheduler_args", what, cure)]) from error
