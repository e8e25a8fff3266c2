"""Rules between parameters, for what the settings alone can tell.

A rule's arguments are the parameters that it looks at; it runs when the job has all of them and
each is right by itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import Problem
from .values import Value

Rule = Callable[..., Problem | None]


def timestep_range(min_timestep: int, max_timestep: int) -> Problem | None:
    """The range of timesteps holds at least one."""
    if min_timestep < max_timestep:
        return None
    what = f"{min_timestep} is not below max_timestep, which is {max_timestep}"
    below = f"use a value below {max_timestep}"
    return Problem("min_timestep", what, f"{below}, or raise max_timestep (at most 1000)")


def save_interval_fires(steps: int, save_every_steps: int) -> Problem | None:
    """Saving every so many steps happens at least once."""
    if save_every_steps <= steps:
        return None
    what = f"{save_every_steps} never fires in a training of {steps} steps"
    proposed = f"use {max(1, steps // 5)}" if steps > 1 else "use 0"
    return Problem("save_every_steps", what, f"{proposed}, or 0 to save at the end only")


def warmup_ends(steps: int, lr_warmup_steps: int) -> Problem | None:
    """The learning rate reaches its value before the training ends."""
    if lr_warmup_steps == 0 or lr_warmup_steps < steps:
        return None
    what = f"{lr_warmup_steps} does not end within a training of {steps} steps"
    return Problem("lr_warmup_steps", what, f"use at most {steps // 2}, usually {steps // 10}")


def step_rules_given(lr_scheduler: str, lr_step_rules: str) -> Problem | None:
    """The piecewise schedule has its pieces, and no other schedule ignores them."""
    if lr_scheduler == "piecewise_constant" and not lr_step_rules:
        cure = "write for example 1:100,0.1:400,0.01"
        return Problem("lr_step_rules", "is missing for piecewise_constant", cure)
    if lr_scheduler != "piecewise_constant" and lr_step_rules:
        what = f"has no effect with the schedule {lr_scheduler}"
        return Problem("lr_step_rules", what, "empty it, or choose piecewise_constant")
    return None


RULES: tuple[Rule, ...] = (timestep_range, save_interval_fires, warmup_ends, step_rules_given)


def arguments_of(rule: Rule) -> tuple[str, ...]:
    """Names of the parameters that a rule looks at."""
    return tuple(inspect.signature(rule).parameters)


def broken_rules(values: Mapping[str, Value], rules: tuple[Rule, ...] = RULES) -> list[Problem]:
    """Problems between the values; a rule that misses one of its arguments is not asked."""
    problems = []
    for rule in rules:
        arguments: dict[str, Any] = {n: values[n] for n in arguments_of(rule) if n in values}
        if len(arguments) == len(arguments_of(rule)):
            problems.append(rule(**arguments))
    return [problem for problem in problems if problem is not None]
